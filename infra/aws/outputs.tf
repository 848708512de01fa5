output "region" {
  value = var.region
}

output "bucket" {
  description = "SAGEMAKER_BUCKET"
  value       = aws_s3_bucket.this.id
}

output "prefix" {
  description = "SAGEMAKER_PREFIX"
  value       = var.prefix
}

output "ecr_registry" {
  description = "--registry of push-docker-image; the variable ECR_REGISTRY of the workflows"
  value       = "${local.account}.dkr.ecr.${var.region}.amazonaws.com"
}

output "repositories" {
  value = { for name, repository in aws_ecr_repository.this : name => repository.repository_url }
}

output "execution_role_arn" {
  description = "SAGEMAKER_ROLE_ARN"
  value       = aws_iam_role.execution.arn
}

output "deployer_role_arn" {
  value = aws_iam_role.deployer.arn
}

output "github_role_arns" {
  description = "The variables AWS_ROLE_BUILD, AWS_ROLE_TRAIN and AWS_ROLE_DEPLOY of the workflows"
  value       = { for name, role in aws_iam_role.github : name => role.arn }
}

output "secret" {
  description = "The variable TWIN_SECRET of the workflows"
  value       = aws_secretsmanager_secret.service.name
}

output "training_secret" {
  description = "SAGEMAKER_SECRET"
  value       = aws_secretsmanager_secret.training.name
}

output "kms_key_arn" {
  description = "SAGEMAKER_KMS_KEY"
  value       = aws_kms_key.this.arn
}

output "subnets" {
  description = "SAGEMAKER_SUBNETS, separated by commas"
  value       = aws_subnet.private[*].id
}

output "security_group" {
  description = "SAGEMAKER_SECURITY_GROUPS"
  value       = aws_security_group.jobs.id
}

output "alerts_topic_arn" {
  value = aws_sns_topic.alerts.arn
}
