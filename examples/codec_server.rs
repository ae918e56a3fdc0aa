//! Answers each frame with its text in upper case. A frame is a 4-byte big-endian length and that number of bytes.
//! Try it with the example `codec_client`.

mod util;

use std::process::ExitCode;

use clap::Parser;
use epicycle::codec::LengthField;
use epicycle::{Action, Conn, ConnInfo, EventHandler};

/// A server for frames with a length field, which answers in upper case
#[derive(Parser)]
struct Flags {
    #[command(flatten)]
    listen: util::Listen,
    /// Answers with the frame as it is
    #[arg(long)]
    echo: bool,
}

struct Upper {
    echo: bool,
    /// The buffer for answers, kept to reuse its memory.
    answer: Vec<u8>,
}

impl EventHandler for Upper {
    type Codec = LengthField;
    type Session = ();

    fn codec(&mut self, _: &ConnInfo<'_>) -> LengthField {
        LengthField::default()
    }

    fn on_open(&mut self, _conn: &mut Conn<'_, Self>) -> Option<()> {
        Some(())
    }

    fn react(&mut self, conn: &mut Conn<'_, Self>, (): &mut (), frame: &[u8]) -> Action {
        if self.echo {
            return conn.send(frame).into();
        }
        self.answer.clear();
        self.answer.extend_from_slice(frame);
        self.answer.make_ascii_uppercase();
        conn.send(&self.answer).into()
    }
}

fn main() -> ExitCode {
    let flags = Flags::parse();
    let echo = flags.echo;
    util::run("codec_server", flags.listen.server(), move |_reactor| {
        let answer = Vec::new();
        Upper { echo, answer }
    })
}
