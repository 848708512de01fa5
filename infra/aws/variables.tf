variable "region" {
  description = "Where everything is made."
  type        = string
  default     = "eu-central-1"
}

variable "name" {
  description = "Beginning of the names of all that is made: repositories, roles, secrets, endpoints."
  type        = string
  default     = "twin"
  validation {
    condition     = can(regex("^[a-z][a-z0-9-]{1,19}$", var.name))
    error_message = "The name has 2 to 20 lower-case letters, digits and hyphens, and begins with a letter."
  }
}

variable "bucket" {
  description = "Name of the bucket for data sets, models and results. Bucket names are the world's, so there is no default."
  type        = string
  validation {
    condition     = can(regex("^[a-z0-9][a-z0-9-]{1,61}[a-z0-9]$", var.bucket))
    error_message = "A bucket's name has 3 to 63 lower-case letters, digits and hyphens."
  }
}

variable "prefix" {
  description = "Of the bucket's keys; as SAGEMAKER_PREFIX."
  type        = string
  default     = "twin"
  validation {
    condition     = can(regex("^[A-Za-z0-9_-]+$", var.prefix))
    error_message = "The prefix has letters, digits, _ and -, and no slash."
  }
}

variable "github_repository" {
  description = "OWNER/REPOSITORY whose workflows may take the roles; empty: none."
  type        = string
  default     = ""
  validation {
    condition     = var.github_repository == "" || can(regex("^[A-Za-z0-9_.-]+/[A-Za-z0-9_.-]+$", var.github_repository))
    error_message = "Write it as OWNER/REPOSITORY."
  }
}

variable "github_provider_arn" {
  description = "ARN of GitHub's OIDC provider, where the account has one already: it can have one only. Empty: it is made."
  type        = string
  default     = ""
}

variable "alert_email" {
  description = "Who is told about alarms and the budget. The address must confirm the subscription once."
  type        = string
  validation {
    condition     = can(regex("^[^@\\s]+@[^@\\s]+\\.[^@\\s]+$", var.alert_email))
    error_message = "This is no mail address."
  }
}

variable "monthly_budget_usd" {
  description = "US dollars a month, of everything that is tagged project=llm-twin; told at 50, 80 and 100 %, and when 100 % is foreseen."
  type        = number
  default     = 100
  validation {
    condition     = var.monthly_budget_usd > 0
    error_message = "The budget must be more than 0."
  }
}

variable "endpoint" {
  description = "Name of the endpoint in production, which the alarms watch; as in configs/deploy_inference.yaml."
  type        = string
  default     = "twin"
}

variable "network_cidr" {
  description = "Addresses of the network, at least a /20."
  type        = string
  default     = "10.42.0.0/16"
  validation {
    condition     = can(cidrhost(var.network_cidr, 0)) && can(cidrsubnet(var.network_cidr, 4, 3)) && tonumber(split("/", var.network_cidr)[1]) <= 20
    error_message = "Write it like 10.42.0.0/16, with a mask of 20 or less."
  }
}

variable "force_destroy" {
  description = "Let destroy delete a bucket and repositories that are not empty."
  type        = bool
  default     = false
}
