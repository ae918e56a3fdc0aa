//! `epicycle gateway`: a reverse proxy that a file configures.

mod from_nginx;
mod handing_over;
mod serving;
mod watch;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use epicycle::gateway::{Builder, Gateway, GatewayError};

/// Runs a reverse proxy
///
/// Examples:
///   epicycle gateway --config gateway.toml
///   epicycle gateway --config gateway.toml --check
///   epicycle gateway --config gateway.toml --explain 'GET http://app.example.org/api/users'
///   epicycle gateway --listen tcp://:8080 --to http://127.0.0.1:9000
///
/// Signals:
///   SIGHUP   reads the file again; so does a change of it, or of a file of nodes, within a second
///   SIGUSR1  opens the access log anew
///   SIGUSR2  starts a new process of this program, which takes over the listeners
///   SIGTERM  answers health checks with 503 for drain.grace, then stops accepting and lets exchanges end
///   SIGINT   the same without the wait; a second SIGTERM or SIGINT ends it at once
#[derive(Args)]
#[command(
    verbatim_doc_comment,
    override_usage = "epicycle gateway --config <FILE> [OPTIONS]\n       epicycle gateway --listen <ADDR> --to <NODE> [OPTIONS]"
)]
pub(crate) struct Flags {
    /// The configuration file, as docs/gateway.md describes it
    #[arg(short, long, value_name = "FILE", required_unless_present_any = ["listen", "to", "from_nginx"])]
    config: Option<PathBuf>,
    /// Prints a configuration for the common part of one of nginx, tells what is not carried over, and ends
    #[arg(long, value_name = "FILE", exclusive = true)]
    from_nginx: Option<PathBuf>,
    /// Checks the configuration, prints all its faults, and ends
    #[arg(long)]
    check: bool,
    /// Tells which way a request would take, and ends. Nothing is sent
    #[arg(long, value_name = "'METHOD URL'")]
    explain: Option<String>,
    /// An address to listen on, instead of a file: tcp://HOST:PORT or unix://PATH; may be repeated
    #[arg(
        short,
        long,
        value_name = "ADDR",
        conflicts_with = "config",
        requires = "to"
    )]
    listen: Vec<String>,
    /// A node that gets the requests: http://HOST:PORT, https://, tcp:// or unix://; may be repeated
    #[arg(
        short,
        long,
        value_name = "NODE",
        conflicts_with = "config",
        requires = "listen"
    )]
    to: Vec<String>,
    /// The number of reactors, instead of that in the file [default: one for each CPU]
    #[arg(long, value_name = "N")]
    reactors: Option<usize>,
}

impl Flags {
    /// Makes a gateway of the file, or of the flags.
    fn gateway(&self) -> Result<Gateway, GatewayError> {
        let gateway = match &self.config {
            Some(file) => Gateway::from_file(file)?,
            None => {
                let builder = Gateway::builder();
                let builder = self
                    .listen
                    .iter()
                    .fold(builder, |builder, addr| builder.listen(&**addr));
                self.to.iter().fold(builder, Builder::to).build()?
            }
        };
        match self.reactors {
            None => Ok(gateway),
            Some(reactors) => gateway.with_reactors(reactors),
        }
    }
}

/// Does what the flags ask for.
pub(crate) fn run(flags: &Flags) -> Result<ExitCode, Box<dyn Error>> {
    if let Some(file) = &flags.from_nginx {
        return from_nginx::run(file);
    }
    let watch = watch::Watch::new(flags.config.as_deref());
    let gateway = match flags.gateway() {
        Ok(gateway) => gateway,
        // Each fault is a line of its own, in the form that editors understand.
        Err(error) if flags.check => {
            eprintln!("{error}");
            return Ok(ExitCode::FAILURE);
        }
        Err(error) => return Err(error.into()),
    };
    if let Some(request) = &flags.explain {
        println!("{}", gateway.explain(request)?);
        return Ok(ExitCode::SUCCESS);
    }
    if flags.check {
        let settings = gateway.settings();
        let (listeners, routes) = (settings.listeners.len(), settings.routes.len());
        let pools = settings.pools.len();
        println!(
            "the configuration is sound: {listeners} listener(s), {routes} route(s), {pools} pool(s)"
        );
        return Ok(ExitCode::SUCCESS);
    }
    serving::serve(flags, &gateway, watch)
}
