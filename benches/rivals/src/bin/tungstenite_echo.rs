//! A WebSocket echo with tungstenite on tokio.

use std::error::Error;
use std::future::poll_fn;
use std::pin::pin;
use std::task::{Poll, ready};

use clap::Parser;
use futures_util::{Sink, Stream};
use rivals::Flags;
use tokio::net::TcpStream;
use tokio::task::unconstrained;
use tokio_tungstenite::accept_async;
use tokio_tungstenite::tungstenite;

fn main() -> Result<(), Box<dyn Error>> {
    rivals::listen(Flags::parse().addr(), |stream| {
        unconstrained(async {
            // The load ends without a closing handshake.
            let _ = echo(stream).await;
        })
    })
}

async fn echo(stream: TcpStream) -> Result<(), tungstenite::Error> {
    let mut socket = pin!(accept_async(stream).await?);
    let mut unflushed = false;
    loop {
        // Flushes once no more input is available, so that messages received together are answered in one write.
        let next = poll_fn(|task| {
            let next = socket.as_mut().poll_next(task);
            if next.is_pending() && unflushed {
                let flushed = ready!(socket.as_mut().poll_flush(task));
                unflushed = false;
                if let Err(error) = flushed {
                    return Poll::Ready(Some(Err(error)));
                }
            }
            next
        });
        match next.await.transpose()? {
            Some(message) if message.is_binary() || message.is_text() => {
                poll_fn(|task| socket.as_mut().poll_ready(task)).await?;
                socket.as_mut().start_send(message)?;
                unflushed = true;
            }
            Some(_) => unflushed = true,
            None => return Ok(()),
        }
    }
}
