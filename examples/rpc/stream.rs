//! Streams: items from the server, from the client, and both ways, and a reader that stops early.

use std::sync::mpsc;

use epicycle::rpc::{Peer, Receiver, Router, SendError, Sender};

use crate::Outcome;

/// Sends numbers from the reactor, as fast as their reader takes them.
fn count(mut next: u64, tx: Sender<u64>) {
    loop {
        match tx.send(&next) {
            Ok(()) => next += 1,
            Err(SendError::Full) => {
                return tx.when_room(move |tx| {
                    if let Ok(tx) = tx {
                        count(next, tx);
                    }
                });
            }
            Err(_) => return,
        }
    }
}

fn routes(stopped: mpsc::Sender<String>) -> Router {
    type Both = (Sender<String>, Receiver<String>);
    let mut routes = Router::new();
    // From the server. It never ends by itself.
    routes.stream("count", move |_ctx, from: u64, tx: Sender<u64>| {
        let stopped = stopped.clone();
        tx.on_cancel(move |status| {
            // The program may have ended.
            let _ = stopped.send(status.to_string());
        });
        count(from, tx);
    });
    // From the client, on a worker. The result is the only item of the answer.
    routes.stream_blocking("longest", |_ctx, _: (), words: Receiver<String>| {
        let mut longest = String::new();
        for word in words {
            let word = word?;
            if word.len() > longest.len() {
                longest = word;
            }
        }
        Ok(longest)
    });
    // Both ways, as a future on the reactor.
    routes.stream_async("shout", |_ctx, _: (), (tx, mut rx): Both| async move {
        while let Some(text) = rx.next().await {
            tx.send_async(&text?.to_uppercase()).await?;
        }
        Ok(())
    });
    routes
}

pub(crate) fn run() -> Outcome {
    let (stopped, stops) = mpsc::channel();
    let server = Peer::builder()
        .listen("tcp://127.0.0.1:0")
        .routes(routes(stopped))
        .start()?;
    let client = Peer::builder().reactors(1).start()?;
    let session = client.dial(&server.local_addrs()[0])?;

    let numbers: Receiver<u64> = session.stream("/count", &1).receive();
    let sum: u64 = numbers.into_iter().take(1000).filter_map(Result::ok).sum();
    println!("the first 1000 numbers: {sum}");
    // The rest of the numbers was dropped, which stops the server.
    println!("the server stops: {}", stops.recv()?);

    let (tx, rx) = session.stream("/longest", &()).open::<String, String>();
    for word in ["a", "stream", "of", "words"] {
        tx.send_wait(&word.to_owned())?;
    }
    tx.finish();
    println!("the longest word: {}", rx.wait_only()?);

    let (tx, rx) = session.stream("/shout", &()).open::<String, String>();
    let (done, ends) = mpsc::channel();
    // By callbacks, while this thread sends.
    rx.on_item(
        |text| println!("the server shouts: {text}"),
        move |end| drop(done.send(end)),
    );
    for text in ["hello", "good-bye"] {
        tx.send_wait(&text.to_owned())?;
    }
    tx.finish();
    Ok(ends.recv()??)
}
