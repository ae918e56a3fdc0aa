//! A peer whose options are in a file. If there is none, one with the defaults is written.

use std::path::PathBuf;
use std::{fs, io};

use clap::Args;
use epicycle::rpc::{Config, Peer, Router};

use crate::{Outcome, util};

#[derive(Args)]
pub(crate) struct Flags {
    /// The file, in TOML
    #[arg(long, value_name = "PATH", default_value = "peer.toml")]
    file: PathBuf,
}

fn read(flags: &Flags) -> Result<Config, Box<dyn std::error::Error>> {
    match fs::read_to_string(&flags.file) {
        Ok(text) => {
            let config = toml::from_str(&text);
            config.map_err(|error| format!("{}: {error}", flags.file.display()).into())
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let mut config = Config::default();
            config.listen_port = 9090;
            fs::write(&flags.file, toml::to_string(&config)?)?;
            println!("wrote {}", flags.file.display());
            Ok(config)
        }
        Err(error) => Err(format!("{}: {error}", flags.file.display()).into()),
    }
}

pub(crate) fn run(flags: &Flags) -> Outcome {
    let config = read(flags)?;
    let mut routes = Router::new();
    routes.call("/math/add", |_ctx, numbers: Vec<i64>| {
        Ok(numbers.iter().sum::<i64>())
    });
    let peer = Peer::builder()
        .config(&config)?
        .routes(routes)
        .server(util::stop_on_signals)
        .start()?;
    if peer.local_addrs().is_empty() {
        return Err("the file has no listen_port, so nobody can call this peer".into());
    }
    for addr in peer.local_addrs() {
        println!(
            "rpc listens on {addr} with {} route; ctrl-c ends it",
            peer.routes().len()
        );
    }
    if let Some(report) = peer.wait() {
        util::print_report("rpc", &report);
    }
    Ok(())
}
