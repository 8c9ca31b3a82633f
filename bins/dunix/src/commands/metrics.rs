//! `dunix metrics`: a node's counts in Prometheus' text form.

use super::Failure;
use crate::{
    admin::{client, discovery::Fabric},
    cli::MetricsArgs,
};
use std::io::Write;

/// Prints the counts.
pub async fn run(fabric: &Fabric, args: &MetricsArgs) -> Result<(), Failure> {
    let text = client::metrics(fabric, args.node.clone()).await?;
    Ok(std::io::stdout().write_all(text.as_bytes())?)
}
