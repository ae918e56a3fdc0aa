//! `epicycle drpc decode`: what the servers of a cluster say to each other.

use std::error::Error;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use epicycle::cluster::drpc::{Answer, Frame, FrameCodec, Incoming, Op, Request};
use epicycle::cluster::packet::PacketOptions;

use super::packet::told as packet_told;
use super::{Input, print_frames, shown};

/// Tells what frames between the servers of a cluster mean
#[derive(Args)]
pub(crate) struct Flags {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Prints a line for each frame
    ///
    /// A body that is malformed is told in its line. The exit code is 1 if the stream is malformed, or ends within a frame.
    ///
    /// Examples:
    ///   epicycle drpc decode 0000000b 00 10 0000000000000005 00
    ///   epicycle drpc decode --answers 0000000d 00 06 0000000000000005 0000 01
    #[command(verbatim_doc_comment)]
    Decode(Decode),
}

#[derive(Args)]
struct Decode {
    #[command(flatten)]
    input: Input,
    /// The bytes are answers, which the listener sends. Without it they are requests, which the dialler sends
    #[arg(long)]
    answers: bool,
}

pub(crate) fn run(flags: &Flags) -> Result<ExitCode, Box<dyn Error>> {
    let Command::Decode(flags) = &flags.command;
    let options = flags.input.format.options()?;
    print_frames(
        &flags.input.hex,
        FrameCodec::default(),
        "",
        |frame| match frame {
            Incoming::Heartbeat => "heartbeat".to_owned(),
            Incoming::Frame(frame) => told(&frame, flags.answers, &options),
            other => format!("{other:?}"),
        },
    )
}

/// Returns the line of a frame.
fn told(frame: &Frame<'_>, is_answer: bool, options: &PacketOptions) -> String {
    let op = match Op::from_code(frame.op) {
        Some(op) => format!("{op:?}"),
        None => format!("op {}", frame.op),
    };
    let head = format!("{op}, seq {}", frame.seq);
    if is_answer {
        return match Answer::decode(frame) {
            Ok(answer) => format!("{head}: {:?}, {:?}", answer.code, answer.value),
            Err(error) => format!("{head}: {error}; its body is {}", shown(frame.body)),
        };
    }
    match Request::decode(frame) {
        Ok(request) => format!("{head}: {}", request_told(&request, options)),
        Err(error) => format!("{head}: {error}; its body is {}", shown(frame.body)),
    }
}

fn request_told(request: &Request<'_>, options: &PacketOptions) -> String {
    let ends = |disconnect: &bool| if *disconnect { ", and disconnects" } else { "" };
    let inner = |packet: &[u8]| match options.decode_message(packet) {
        Ok(frame) => packet_told(&frame),
        Err(error) => format!("no packet of this format ({error}), {}", shown(packet)),
    };
    match request {
        Request::Push {
            target,
            disconnect,
            packet,
        } => {
            format!("to {target:?}{}: {}", ends(disconnect), inner(packet))
        }
        Request::Multicast {
            scope,
            targets,
            disconnect,
            packet,
        } => {
            format!(
                "to {scope:?} {targets:?}{}: {}",
                ends(disconnect),
                inner(packet)
            )
        }
        Request::Broadcast {
            scope,
            disconnect,
            packet,
        } => {
            format!("to every {scope:?}{}: {}", ends(disconnect), inner(packet))
        }
        Request::Publish {
            channel,
            disconnect,
            packet,
        } => {
            format!(
                "to the channel {channel:?}{}: {}",
                ends(disconnect),
                inner(packet)
            )
        }
        Request::Deliver { cid, uid, packet } => {
            format!("from connection {cid}, user {uid}: {}", inner(packet))
        }
        other => format!("{other:?}"),
    }
}
