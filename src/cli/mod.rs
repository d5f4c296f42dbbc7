//! The command line. Each subcommand has a file; errors say what happened and what to do next.

mod api;
mod assurance;
mod catalog;
mod check;
mod decrypt;
mod decrypt_parts;
mod demo;
mod drain;
mod import;
mod interop;
mod interop_report;
mod join;
mod keys;
mod keys_cluster;
mod load;
mod load_verify;
mod logging;
mod nodes;
mod output;
mod replay;
mod run;
mod size;
mod spool;
mod verify;
mod verify_parts;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Records calls that SBCs send by SIPREC: two-channel Opus, sealed under the
/// tenant's key while the call runs, staged to object storage.
#[derive(Debug, Parser)]
#[command(name = "ferric", version, arg_required_else_help = true, max_term_width = 100)]
#[command(after_help = "Try `ferric demo` first: it records a call, uploads it, opens it again and shows what it did.")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run this node. Without a file: an all-in-one node on loopback.
    Run {
        /// Configuration file (TOML).
        #[arg(long, value_name = "FILE")]
        config: Option<PathBuf>,
        /// Where the node without a file keeps its data.
        #[arg(long, value_name = "DIR", default_value = "ferric-data", conflicts_with = "config")]
        data_dir: PathBuf,
    },
    /// Record a bundled conversation end to end and compare the result with what was said.
    Demo(demo::DemoArguments),
    /// Let an SBC make a test call, and say what works and what to change on it.
    Interop(interop::InteropArguments),
    /// Check a configuration file.
    Check {
        /// Configuration file (TOML).
        #[arg(long, value_name = "FILE")]
        config: PathBuf,
    },
    /// Make keys.
    Keys {
        #[command(subcommand)]
        command: KeysCommand,
    },
    /// Open a sealed file with the tenant's private key.
    Decrypt(decrypt::DecryptArguments),
    /// Check a recording's manifest, hashes, signature and chain; needs no private key.
    Verify(verify::VerifyArguments),
    /// Look at what waits in the local spool.
    Spool {
        #[command(subcommand)]
        command: spool::SpoolCommand,
    },
    /// Show the nodes of the cluster: who is there, and how they are.
    Nodes(nodes::NodesArguments),
    /// Let a node take no new calls, so that it can be stopped without losing one.
    Drain(drain::DrainArguments),
    /// Make the catalogue again from what the stores hold.
    Catalog {
        #[command(subcommand)]
        command: catalog::CatalogCommand,
    },
    /// Tell what became of every call of a day, and prove that it adds up.
    Assurance(assurance::AssuranceArguments),
    /// Turn the configuration of another product into one of Ferric.
    Import {
        #[command(subcommand)]
        command: import::ImportCommand,
    },
    /// Run a candidate configuration against recorded requests, and tell what would change.
    Replay(replay::ReplayArguments),
    /// Reckon how many nodes, how much bandwidth and how much disk an installation takes.
    Size(size::SizeArguments),
    /// Send many SIPREC calls with real RTP to a recorder.
    Load(load::LoadArguments),
}

#[derive(Debug, Subcommand)]
enum KeysCommand {
    /// An RSA-2048 pair for a tenant: NAME.private.pem (mode 0600) and NAME.public.pem.
    New {
        /// Folder for both files; made if it is not there.
        #[arg(long, value_name = "DIR")]
        out: PathBuf,
        /// Name of the tenant.
        #[arg(long, value_name = "NAME", default_value = "default")]
        tenant: String,
    },
    /// The cluster's CA, if it is not there yet, and a node's certificate: NODE.crt and NODE.key (mode 0600).
    Cluster(keys_cluster::ClusterArguments),
}

pub(crate) use keys::write_pair as write_key_pair;

/// Runs the command line and returns the exit code.
pub fn main() -> ExitCode {
    let arguments = Arguments::parse();
    // One provider for all of TLS; a second installation is refused and harmless.
    let _ = rustls::crypto::ring::default_provider().install_default();
    // A node's output is a courtesy, a command's output is its result.
    let is_node = matches!(arguments.command, Command::Run { .. });
    let result = match arguments.command {
        Command::Run { config, data_dir } => run::run(config.as_deref(), &data_dir),
        Command::Demo(arguments) => demo::run(&arguments),
        Command::Interop(arguments) => interop::run(&arguments),
        Command::Check { config } => check::run(&config),
        Command::Keys { command: KeysCommand::New { out, tenant } } => keys::new(&out, &tenant),
        Command::Keys { command: KeysCommand::Cluster(arguments) } => keys_cluster::run(&arguments),
        Command::Decrypt(arguments) => decrypt::run(&arguments),
        Command::Verify(arguments) => verify::run(&arguments),
        Command::Spool { command } => spool::run(&command),
        Command::Nodes(arguments) => nodes::run(&arguments),
        Command::Drain(arguments) => drain::run(&arguments),
        Command::Catalog { command } => catalog::run(&command),
        Command::Assurance(arguments) => assurance::run(&arguments),
        Command::Import { command } => import::run(&command),
        Command::Replay(arguments) => replay::run(&arguments),
        Command::Size(arguments) => size::run(&arguments),
        Command::Load(arguments) => load::run(&arguments),
    };
    match result {
        Ok(_) if output::is_lost() && !is_node => {
            output::complain!("ferric: standard output could not be written: the result above is not complete");
            ExitCode::FAILURE
        }
        Ok(code) => code,
        Err(error) => {
            output::complain!("ferric: {error:#}");
            ExitCode::FAILURE
        }
    }
}
