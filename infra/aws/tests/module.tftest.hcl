# Offline: terraform test. No account is asked for anything.
mock_provider "aws" {
  mock_data "aws_caller_identity" {
    defaults = { account_id = "123456789012" }
  }
  mock_data "aws_availability_zones" {
    defaults = { names = ["eu-central-1a", "eu-central-1b", "eu-central-1c"] }
  }
  mock_data "aws_iam_policy_document" {
    defaults = { json = "{\"Version\":\"2012-10-17\",\"Statement\":[]}" }
  }
  mock_resource "aws_kms_key" {
    defaults = { arn = "arn:aws:kms:eu-central-1:123456789012:key/1" }
  }
  mock_resource "aws_sns_topic" {
    defaults = { arn = "arn:aws:sns:eu-central-1:123456789012:twin-alerts" }
  }
  mock_resource "aws_iam_openid_connect_provider" {
    defaults = { arn = "arn:aws:iam::123456789012:oidc-provider/token.actions.githubusercontent.com" }
  }
}

variables {
  bucket            = "twin-test"
  alert_email       = "ops@example.com"
  github_repository = "owner/twin"
}

run "nothing_is_open" {
  command = apply

  assert {
    condition = alltrue([
      aws_s3_bucket_public_access_block.this.block_public_acls,
      aws_s3_bucket_public_access_block.this.block_public_policy,
      aws_s3_bucket_public_access_block.this.ignore_public_acls,
      aws_s3_bucket_public_access_block.this.restrict_public_buckets,
    ])
    error_message = "The bucket must not be public in any way."
  }
  assert {
    condition     = one(aws_s3_bucket_server_side_encryption_configuration.this.rule[*].apply_server_side_encryption_by_default[0].sse_algorithm) == "aws:kms"
    error_message = "The bucket is encrypted with the project's key."
  }
  assert {
    condition     = aws_kms_key.this.enable_key_rotation
    error_message = "The key rotates."
  }
  assert {
    condition     = alltrue([for rule in aws_security_group.jobs.ingress : rule.self && length(coalesce(rule.cidr_blocks, [])) == 0])
    error_message = "Nobody outside reaches a job's machines."
  }
  assert {
    condition     = alltrue([for one in [aws_secretsmanager_secret.service, aws_secretsmanager_secret.training] : one.kms_key_id == aws_kms_key.this.arn])
    error_message = "The secrets are encrypted with the project's key."
  }
}

run "images_stay_what_they_were" {
  command = apply

  assert {
    condition     = toset(keys(aws_ecr_repository.this)) == toset(["service", "pipelines", "training"])
    error_message = "One repository for each target of the Dockerfile."
  }
  assert {
    condition     = alltrue([for one in aws_ecr_repository.this : one.image_tag_mutability == "IMMUTABLE" && one.image_scanning_configuration[0].scan_on_push])
    error_message = "A tag is never moved, and each image is scanned."
  }
}

run "workflows_take_the_roles_from_their_place_alone" {
  command = apply

  assert {
    condition     = toset(keys(aws_iam_role.github)) == toset(["build", "train", "deploy"])
    error_message = "A role for each workflow."
  }
  assert {
    condition     = alltrue(flatten([for one in local.github_roles : [for subject in one.subjects : !strcontains(subject, "*")]]))
    error_message = "No wildcard: any branch or fork could take the role."
  }
  assert {
    condition     = alltrue([for subject in local.github_roles.deploy.subjects : strcontains(subject, ":environment:")])
    error_message = "Deploying takes an environment whose rules were met."
  }
  assert {
    condition     = aws_iam_role.github["train"].max_session_duration == 21600
    error_message = "A training of six hours needs a session of six hours."
  }
  assert {
    condition     = output.ecr_registry == "123456789012.dkr.ecr.eu-central-1.amazonaws.com"
    error_message = "The registry is the account's."
  }
}

run "policies_are_filled" {
  command = apply

  assert {
    condition     = !strcontains(aws_iam_role_policy.execution.policy, "$${") && !strcontains(aws_iam_role_policy.deployer.policy, "$${")
    error_message = "No placeholder is left."
  }
  assert {
    condition     = strcontains(aws_iam_role_policy.execution.policy, "arn:aws:s3:::twin-test/twin/*")
    error_message = "The policy names this bucket and prefix."
  }
  assert {
    condition     = can(jsondecode(aws_iam_role.execution.assume_role_policy)) && can(jsondecode(aws_iam_role.deployer.assume_role_policy))
    error_message = "Trust policies are JSON."
  }
}

run "who_is_told" {
  command = apply

  assert {
    condition     = aws_cloudwatch_metric_alarm.errors.alarm_actions == toset([aws_sns_topic.alerts.arn])
    error_message = "Alarms go to the topic."
  }
  assert {
    condition     = length(aws_budgets_budget.this.notification) == 4
    error_message = "Half, most, all, and all foreseen."
  }
}

run "without_github_there_is_no_way_in" {
  command = apply
  variables {
    github_repository = ""
  }

  assert {
    condition     = length(aws_iam_role.github) == 0 && length(aws_iam_openid_connect_provider.github) == 0
    error_message = "No repository, no role."
  }
}

run "a_provider_that_is_there_is_used" {
  command = apply
  variables {
    github_provider_arn = "arn:aws:iam::123456789012:oidc-provider/token.actions.githubusercontent.com"
  }

  assert {
    condition     = length(aws_iam_openid_connect_provider.github) == 0 && length(aws_iam_role.github) == 3
    error_message = "An account can have one provider of GitHub only."
  }
}

run "what_is_wrong_is_refused_before_anything_is_made" {
  command = plan
  variables {
    name               = "Twin!"
    bucket             = "My_Bucket"
    prefix             = "a/b"
    github_repository  = "twin"
    alert_email        = "nobody"
    monthly_budget_usd = 0
    network_cidr       = "10.0.0.0/28"
  }
  expect_failures = [
    var.name, var.bucket, var.prefix, var.github_repository, var.alert_email, var.monthly_budget_usd, var.network_cidr,
  ]
}
