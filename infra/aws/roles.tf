# The policies are those that ./poe create-sagemaker-role and create-sagemaker-execution-role make roles of; use one way or the other.
resource "aws_iam_role" "execution" {
  name                 = "${var.name}-sagemaker-execution"
  description          = "What containers of training and serving may do."
  assume_role_policy   = templatefile("${path.module}/policies/execution_trust.json", local.scope)
  max_session_duration = 14400
}

resource "aws_iam_role_policy" "execution" {
  name   = "execution"
  role   = aws_iam_role.execution.id
  policy = templatefile("${path.module}/policies/execution.json", local.scope)
}

resource "aws_iam_role" "deployer" {
  name                 = "${var.name}-sagemaker-deployer"
  description          = "What whoever trains, deploys and asks may do."
  assume_role_policy   = templatefile("${path.module}/policies/deployer_trust.json", local.scope)
  max_session_duration = 14400
}

resource "aws_iam_role_policy" "deployer" {
  name   = "deployer"
  role   = aws_iam_role.deployer.id
  policy = templatefile("${path.module}/policies/deployer.json", local.scope)
}

data "aws_iam_policy_document" "key" {
  statement {
    sid       = "UseTheKey"
    actions   = ["kms:Decrypt", "kms:Encrypt", "kms:GenerateDataKey", "kms:DescribeKey"]
    resources = [aws_kms_key.this.arn]
  }
}

resource "aws_iam_role_policy" "key" {
  for_each = { execution = aws_iam_role.execution.id, deployer = aws_iam_role.deployer.id }
  name     = "key"
  role     = each.value
  policy   = data.aws_iam_policy_document.key.json
}

# --- GitHub's workflows: no key is kept anywhere, a token of the run is exchanged for a role -----------------------------

locals {
  github = var.github_repository != ""
  # Who may take which role. `sub` says where a run comes from: a branch, or an environment whose rules were met.
  github_roles = local.github ? {
    build  = { subjects = ["repo:${var.github_repository}:ref:refs/heads/main"], hours = 1 }
    train  = { subjects = ["repo:${var.github_repository}:ref:refs/heads/main"], hours = 6 }
    deploy = { subjects = ["repo:${var.github_repository}:environment:staging", "repo:${var.github_repository}:environment:production"], hours = 3 }
  } : {}
  github_provider = var.github_provider_arn != "" ? var.github_provider_arn : one(aws_iam_openid_connect_provider.github[*].arn)
}

resource "aws_iam_openid_connect_provider" "github" {
  count          = local.github && var.github_provider_arn == "" ? 1 : 0
  url            = "https://token.actions.githubusercontent.com"
  client_id_list = ["sts.amazonaws.com"]
  # AWS knows GitHub's certificates itself and no longer looks at this; the provider still asks for one.
  thumbprint_list = ["6938fd4d98bab03faadb97b34396831e3780aea1"]
}

data "aws_iam_policy_document" "github_trust" {
  for_each = local.github_roles
  statement {
    actions = ["sts:AssumeRoleWithWebIdentity"]
    principals {
      type        = "Federated"
      identifiers = [local.github_provider]
    }
    condition {
      test     = "StringEquals"
      variable = "token.actions.githubusercontent.com:aud"
      values   = ["sts.amazonaws.com"]
    }
    condition {
      test     = "StringEquals"
      variable = "token.actions.githubusercontent.com:sub"
      values   = each.value.subjects
    }
  }
}

resource "aws_iam_role" "github" {
  for_each             = local.github_roles
  name                 = "${var.name}-github-${each.key}"
  description          = "What the workflow that is to ${each.key} may do."
  assume_role_policy   = data.aws_iam_policy_document.github_trust[each.key].json
  max_session_duration = each.value.hours * 3600
}

data "aws_iam_policy_document" "build" {
  statement {
    sid       = "LogInToTheRegistry"
    actions   = ["ecr:GetAuthorizationToken"]
    resources = ["*"]
  }
  statement {
    sid = "Push"
    actions = [
      "ecr:BatchCheckLayerAvailability",
      "ecr:BatchGetImage",
      "ecr:CompleteLayerUpload",
      "ecr:GetDownloadUrlForLayer",
      "ecr:InitiateLayerUpload",
      "ecr:PutImage",
      "ecr:UploadLayerPart",
    ]
    resources = [for repository in aws_ecr_repository.this : repository.arn]
  }
}

data "aws_iam_policy_document" "settings" {
  statement {
    sid       = "ReadTheSettings"
    actions   = ["secretsmanager:GetSecretValue"]
    resources = [aws_secretsmanager_secret.service.arn]
  }
}

resource "aws_iam_role_policy" "build" {
  count  = local.github ? 1 : 0
  name   = "build"
  role   = aws_iam_role.github["build"].id
  policy = data.aws_iam_policy_document.build.json
}

resource "aws_iam_role_policy" "github_deployer" {
  for_each = { for name, role in aws_iam_role.github : name => role.id if name != "build" }
  name     = "deployer"
  role     = each.value
  policy   = templatefile("${path.module}/policies/deployer.json", local.scope)
}

resource "aws_iam_role_policy" "github_settings" {
  for_each = { for name, role in aws_iam_role.github : name => role.id if name != "build" }
  name     = "settings"
  role     = each.value
  policy   = data.aws_iam_policy_document.settings.json
}

resource "aws_iam_role_policy" "github_key" {
  for_each = { for name, role in aws_iam_role.github : name => role.id if name != "build" }
  name     = "key"
  role     = each.value
  policy   = data.aws_iam_policy_document.key.json
}
