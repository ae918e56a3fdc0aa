//! `epicycle packet decode`: what a client and a gate say to each other.

use std::error::Error;
use std::process::ExitCode;

use clap::builder::{PossibleValuesParser, TypedValueParser};
use clap::{Args, Subcommand};
use epicycle::cluster::packet::{PacketCodec, PacketFrame, PacketOptions};
use epicycle::codec::ByteOrder;

use super::{Input, print_frames, shown};

/// Tells what packets between a client and a gate mean
#[derive(Args)]
pub(crate) struct Flags {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Prints a line for each packet
    ///
    /// The exit code is 1 if the input is malformed, or ends within a packet.
    ///
    /// Examples:
    ///   epicycle packet decode 00000007 00 0001 0002 6869
    ///   tshark … | epicycle packet decode --route-bytes 4 -
    #[command(verbatim_doc_comment)]
    Decode(Input),
}

/// The options of packets, which both ends must have.
#[derive(Args)]
pub(crate) struct Format {
    /// The bytes of a packet's route: 1, 2 or 4
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = one_of(["1", "2", "4"]))]
    route_bytes: usize,
    /// The bytes of a packet's seq: 0, 1, 2 or 4
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = one_of(["0", "1", "2", "4"]))]
    seq_bytes: usize,
    /// The numbers of packets are little-endian
    #[arg(long)]
    little_endian: bool,
    /// Heartbeats tell the time
    #[arg(long)]
    heartbeat_time: bool,
    /// The most bytes of data in a packet
    #[arg(long, value_name = "N", default_value_t = 1 << 20)]
    max_data: usize,
}

impl Format {
    pub(crate) fn options(&self) -> Result<PacketOptions, epicycle::cluster::Error> {
        let order = match self.little_endian {
            true => ByteOrder::Little,
            false => ByteOrder::Big,
        };
        PacketOptions::builder()
            .byte_order(order)
            .route_bytes(self.route_bytes)
            .seq_bytes(self.seq_bytes)
            .heartbeat_time(self.heartbeat_time)
            .max_data(self.max_data)
            .build()
    }
}

/// Returns a parser of these numbers, whose error names the flag.
fn one_of<const N: usize>(numbers: [&'static str; N]) -> impl TypedValueParser<Value = usize> {
    PossibleValuesParser::new(numbers).try_map(|number| number.parse())
}

pub(crate) fn run(flags: &Flags) -> Result<ExitCode, Box<dyn Error>> {
    let Command::Decode(input) = &flags.command;
    let codec = PacketCodec::new(input.format.options()?);
    let remedy = "; raise --max-data if the packets are longer";
    print_frames(&input.hex, codec, remedy, |frame| told(&frame))
}

/// Returns the line of a packet.
pub(super) fn told(frame: &PacketFrame<'_>) -> String {
    match frame {
        PacketFrame::Packet { packet, .. } => {
            let kind = match packet.seq {
                0 => "push".to_owned(),
                seq => format!("seq {seq}"),
            };
            format!("route {}, {kind}, {}", packet.route, shown(packet.data))
        }
        PacketFrame::Heartbeat(heartbeat) => match heartbeat.time {
            Some(time) => format!("heartbeat, time {time} ns"),
            None => "heartbeat".to_owned(),
        },
        PacketFrame::Control(control) => format!("control packet, {control:?}"),
        PacketFrame::Empty => "empty".to_owned(),
        other => format!("{other:?}"),
    }
}
