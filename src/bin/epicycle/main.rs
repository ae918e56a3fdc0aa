//! The program `epicycle`: what the library does, as commands.
//!
//! Exit codes: 0 if the command did what it was asked for, 1 if it failed, 2 if the command line is wrong.

mod admin;
mod bots;
mod decode;
mod gateway;
mod load;
mod new;
#[allow(dead_code, reason = "the examples use the rest")]
mod proto;
mod rpc;
mod util;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Tools that stand on the networking engine epicycle
#[derive(Parser)]
#[command(version, arg_required_else_help = true)]
struct Flags {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Admin(admin::Flags),
    Bots(bots::Flags),
    Drpc(decode::Drpc),
    Gateway(gateway::Flags),
    Load(Box<load::Flags>),
    New(new::Flags),
    Packet(decode::Packet),
    Rpc(rpc::Flags),
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    util::log_to_stderr();
    let (name, result) = match flags.command {
        Command::Admin(flags) => ("admin", admin::run(&flags)),
        Command::Bots(flags) => ("bots", bots::run(&flags)),
        Command::Drpc(flags) => ("drpc", decode::drpc(&flags)),
        Command::Gateway(flags) => ("gateway", gateway::run(&flags)),
        Command::Load(flags) => ("load", load::run(&flags)),
        Command::New(flags) => ("new", new::run(&flags)),
        Command::Packet(flags) => ("packet", decode::packet(&flags)),
        Command::Rpc(flags) => ("rpc", rpc::run(flags)),
    };
    result.unwrap_or_else(|error| {
        eprintln!("epicycle {name}: {error}");
        ExitCode::FAILURE
    })
}
