//! `ferric check`

use std::path::Path;
use std::process::ExitCode;

use super::output::{complain, say};
use crate::config::Config;

pub(crate) fn run(file: &Path) -> anyhow::Result<ExitCode> {
    match Config::load(file) {
        Ok(config) => {
            for warning in &config.warnings {
                say!("note: {warning}");
            }
            let tenants: Vec<&str> = config.tenants.iter().map(|tenant| tenant.name.as_str()).collect();
            let whose = if tenants.is_empty() {
                "no tenant: it records nothing".to_owned()
            } else {
                format!("tenants {}", tenants.join(", "))
            };
            say!("{} is fine: node {}, {whose}", file.display(), config.node.id);
            Ok(ExitCode::SUCCESS)
        }
        Err(complaints) => {
            complain!("{complaints}");
            Ok(ExitCode::from(2))
        }
    }
}
