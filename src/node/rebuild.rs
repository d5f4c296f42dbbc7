//! The catalogue made again from the stores, without a node that runs.

use std::sync::Arc;

use anyhow::Context as _;
use ferric_media::keys::PrivateKey;
use ferric_worker::catalog_rebuild::{Rebuilt, rebuild};
use ferric_worker::store::open_target;

use super::{catalogue, keys};
use crate::config::Config;

/// Reads the stores of all tenants into the catalogue; returns what was found of each tenant. `progress` hears the sums
/// of a tenant from time to time.
pub(crate) async fn rebuild_catalogue(
    config: &Config,
    private_keys: Arc<[PrivateKey]>,
    mut progress: impl FnMut(&str, Rebuilt),
) -> anyhow::Result<Vec<(String, Rebuilt)>> {
    let identity = keys::prepare(config)?;
    let catalog = catalogue::connect(config, identity.party_key).await?;
    let mut done = Vec::new();
    for tenant in &config.tenants {
        let target = open_target(&tenant.store, &tenant.prefix)
            .with_context(|| format!("the store of tenant {}", tenant.name))?;
        let tell = |sums| progress(&tenant.name, sums);
        let sums = rebuild(&catalog, &target, Arc::clone(&private_keys), tell)
            .await
            .with_context(|| format!("the recordings of tenant {}", tenant.name))?;
        done.push((tenant.name.clone(), sums));
    }
    catalog.close().await;
    Ok(done)
}
