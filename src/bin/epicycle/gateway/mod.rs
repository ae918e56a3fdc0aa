//! `epicycle gateway`: a reverse proxy that a file configures.

mod from_nginx;
mod handing_over;
mod serving;
mod watch;

use std::error::Error;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Args;
use epicycle::gateway::settings::{ListenerKind, ListenerSettings, Problem};
use epicycle::gateway::{Builder, Gateway, GatewayError, Users, UsersError};

/// Runs a reverse proxy, a forward proxy, a SOCKS5 proxy, or all of them and forwarded ports from a file
///
/// Examples:
///   epicycle gateway --config gateway.toml
///   epicycle gateway --config gateway.toml --check
///   epicycle gateway --config gateway.toml --explain 'GET http://app.example.org/api/users'
///   epicycle gateway --listen tcp://:8080 --to http://127.0.0.1:9000
///   epicycle gateway --listen tcp://127.0.0.1:1080 --socks5
///   epicycle gateway --listen tcp://:3128 --forward --users users.txt
///   epicycle gateway --from-nginx /etc/nginx/nginx.conf > gateway.toml
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
    override_usage = "epicycle gateway --config <FILE> [OPTIONS]\n       epicycle gateway --listen <ADDR> --to <NODE> [OPTIONS]\n       epicycle gateway --listen <ADDR> --socks5|--forward [--users <FILE>] [OPTIONS]\n       epicycle gateway --from-nginx <FILE>"
)]
pub(crate) struct Flags {
    /// The configuration file, as docs/gateway.md describes it
    #[arg(short, long, value_name = "FILE", required_unless_present_any = ["listen", "to", "socks5", "forward", "from_nginx"])]
    config: Option<PathBuf>,
    /// Prints a configuration for the common part of one of nginx, tells what is not carried over, and ends
    #[arg(long, value_name = "FILE", exclusive = true)]
    from_nginx: Option<PathBuf>,
    /// Checks the configuration, prints all its faults, and ends
    #[arg(long)]
    check: bool,
    /// Tells which way a request would take, and ends: 'GET URL', 'CONNECT HOST:PORT', 'SOCKS5 HOST:PORT', tcp://HOST:PORT or
    /// udp://HOST:PORT. Nothing is sent
    #[arg(long, value_name = "REQUEST")]
    explain: Option<String>,
    /// An address to listen on, instead of a file: tcp://HOST:PORT or unix://PATH; may be repeated
    #[arg(
        short,
        long,
        value_name = "ADDR",
        conflicts_with = "config",
        requires = "service"
    )]
    listen: Vec<String>,
    /// A node that gets the requests: http://HOST:PORT, https://, tcp:// or unix://; may be repeated
    #[arg(
        short,
        long,
        value_name = "NODE",
        group = "service",
        conflicts_with = "config",
        requires = "listen"
    )]
    to: Vec<String>,
    /// Serves as a SOCKS5 proxy: clients name their targets. Only public addresses may be reached
    #[arg(
        long,
        group = "service",
        conflicts_with = "config",
        requires = "listen"
    )]
    socks5: bool,
    /// Serves as a forward proxy for HTTP: clients name their targets. Only public addresses may be reached
    #[arg(
        long,
        group = "service",
        conflicts_with = "config",
        requires = "listen"
    )]
    forward: bool,
    /// A file with the users of the proxy, NAME:HASH a line, as `htpasswd -nB NAME` prints it. Without it everybody may use it who reaches it
    #[arg(long, value_name = "FILE", conflicts_with_all = ["config", "to"], requires = "listen")]
    users: Option<PathBuf>,
    /// The number of reactors, instead of that in the file [default: one for each CPU]
    #[arg(long, value_name = "N")]
    reactors: Option<usize>,
}

impl Flags {
    /// Makes a listener of the kind that the flags ask for.
    fn listener(&self, addr: &str) -> Result<ListenerSettings, GatewayError> {
        let mut listener = match self.forward {
            true => ListenerSettings::forward(addr),
            false => ListenerSettings::new(addr),
        };
        if self.socks5 {
            listener.kind = ListenerKind::Socks5;
        }
        if let Some(file) = &self.users {
            let users = Users::from_file(file);
            let wrong = |error: UsersError| Problem::new("--users", error.to_string());
            listener.users =
                Some(users.map_err(|error| GatewayError::Settings(vec![wrong(error)]))?);
        }
        Ok(listener)
    }

    /// Names the flags instead of the settings that they make.
    fn by_flag(problems: Vec<Problem>) -> GatewayError {
        let named = problems.into_iter().map(|mut problem| {
            let flags = [("listeners[", "--listen"), ("pools.default.nodes[", "--to")];
            let mut flags = flags.into_iter();
            if let Some((_, flag)) = flags.find(|(place, _)| problem.place.starts_with(place)) {
                flag.clone_into(&mut problem.place);
            }
            problem
        });
        GatewayError::Settings(named.collect())
    }

    /// Makes a gateway of the file, or of the flags.
    fn gateway(&self) -> Result<Gateway, GatewayError> {
        let gateway = match &self.config {
            Some(file) => Gateway::from_file(file)?,
            None => {
                let mut builder = Gateway::builder();
                for addr in &self.listen {
                    builder = builder.listen(self.listener(addr)?);
                }
                let built = self.to.iter().fold(builder, Builder::to).build();
                built.map_err(|error| match error {
                    GatewayError::Settings(problems) => Self::by_flag(problems),
                    other => other,
                })?
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
        for warning in gateway.warnings() {
            eprintln!("warning: {warning}");
        }
        let (listeners, routes) = (settings.listeners.len(), settings.routes.len());
        let pools = settings.pools.len();
        println!(
            "the configuration is sound: {listeners} listener(s), {routes} route(s), {pools} pool(s)"
        );
        return Ok(ExitCode::SUCCESS);
    }
    serving::serve(flags, &gateway, watch)
}
