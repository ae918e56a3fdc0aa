//! A TCP echo on message-io, as its documentation shows it.

use std::error::Error;

use clap::Parser;
use message_io::network::{NetEvent, Transport};
use message_io::node;
use rivals::Flags;

fn main() -> Result<(), Box<dyn Error>> {
    let flags = Flags::parse();
    let (handler, listener) = node::split::<()>();
    handler.network().listen(Transport::Tcp, flags.addr())?;
    listener.for_each(move |event| {
        if let NetEvent::Message(peer, bytes) = event.network() {
            handler.network().send(peer, bytes);
        }
    });
    Ok(())
}
