//! Calls that do not block their thread: by callbacks, in batches, and as futures, on either side.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};
use std::time::Duration;

use epicycle::rpc::{Peer, Pending, Router, Session, Status};

use crate::Outcome;

pub(crate) fn run() -> Outcome {
    let mut routes = Router::new();
    routes.call_blocking("double", |_ctx, n: u64| {
        thread::sleep(Duration::from_millis(100));
        Ok(2 * n)
    });
    // A handler that awaits a call to its caller. It runs on the reactor and holds nobody up.
    routes.call_async("greet", |ctx, greeting: String| async move {
        let name: String = ctx.session().call("/name", &()).await?;
        Ok(format!("{greeting}, {name}"))
    });
    let server = Peer::builder()
        .listen("tcp://127.0.0.1:0")
        .routes(routes)
        .start()?;

    let mut routes = Router::new();
    routes.call("name", |_ctx, _: ()| Ok("client"));
    let client = Peer::builder().reactors(1).routes(routes).start()?;
    let session = client.dial(&server.local_addrs()[0])?;

    // A callback, on the session's reactor.
    let (tell, told) = mpsc::channel();
    session
        .call("/double", &1)
        .then(move |result: Result<u64, Status>| drop(tell.send(result)));
    println!("called; this thread goes on");
    println!("callback: {}", told.recv()??);

    // A batch: all calls are under way at once.
    let batch: Vec<Pending<u64>> = (1..=5)
        .map(|n| session.call("/double", &n).send())
        .collect();
    let replies: Result<Vec<u64>, _> = batch.into_iter().map(Pending::wait).collect();
    println!("batch: {:?}", replies?);

    println!("future: {}", block_on(twice(&session))?);
    let greeting: String = session.call("/greet", "hello").wait()?;
    println!("handler that awaits: {greeting}");
    Ok(())
}

async fn twice(session: &Session) -> Result<u64, Status> {
    let double: u64 = session.call("/double", &10).await?;
    session.call("/double", &double).await
}

/// The smallest executor: any other does as well.
fn block_on<T>(future: impl Future<Output = T>) -> T {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(value) => return value,
            Poll::Pending => thread::park(),
        }
    }
}
