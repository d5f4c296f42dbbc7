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
            say!("{} is fine: node {}, tenants {}", file.display(), config.node.id, tenants.join(", "));
            Ok(ExitCode::SUCCESS)
        }
        Err(complaints) => {
            complain!("{complaints}");
            Ok(ExitCode::from(2))
        }
    }
}
