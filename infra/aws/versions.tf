# What the project needs of an AWS account, but endpoints and jobs: those are made and taken away by the project's own tasks.
# Written for Terraform 1.6 and later, and for OpenTofu, which reads the same files.
#
#   terraform init
#   terraform apply -var bucket=my-twin -var alert_email=me@example.com -var github_repository=OWNER/REPOSITORY
#   ./poe set-aws-stack        reads the outputs
#   terraform destroy          (-var force_destroy=true: with all that the bucket and the registry hold)
terraform {
  required_version = ">= 1.6"
  required_providers {
    aws = {
      source  = "hashicorp/aws"
      version = "~> 5.100"
    }
  }
}

provider "aws" {
  region = var.region
  default_tags {
    tags = { project = "llm-twin", managed-by = "terraform" }
  }
}

data "aws_caller_identity" "current" {}

locals {
  account = data.aws_caller_identity.current.account_id
  # What the placeholders of the policies stand for; ./poe create-sagemaker-role fills them with the same.
  scope = {
    account = local.account
    region  = var.region
    bucket  = var.bucket
    name    = var.name
    prefix  = var.prefix
  }
}
