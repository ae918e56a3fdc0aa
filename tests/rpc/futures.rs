//! Handlers that are futures, polled on the reactor.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc;
use std::task::{Context, Poll, Waker};
use std::thread;

use epicycle::rpc::{Peer, Reply, Router, Session, Status, code};
use parking_lot::Mutex;

use crate::ends::{dial, listening, start};
use crate::util::{LONG, eventually, expect_panics};

fn pair(server: Router, client: Router) -> (Peer, Peer, Session) {
    let server = start(listening().routes(server).local(|| 0u32));
    let client = start(Peer::builder().routes(client));
    let session = dial(&client, &server);
    (server, client, session)
}

/// A future that another thread makes ready.
#[derive(Clone, Default)]
struct Signal(Arc<Mutex<(bool, Option<Waker>)>>);

impl Signal {
    fn set(&self) {
        let waker = {
            let mut state = self.0.lock();
            state.0 = true;
            state.1.take()
        };
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    fn is_polled(&self) -> bool {
        self.0.lock().1.is_some()
    }
}

impl Future for Signal {
    type Output = ();

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
        let mut state = self.0.lock();
        if state.0 {
            return Poll::Ready(());
        }
        state.1 = Some(context.waker().clone());
        Poll::Pending
    }
}

#[test]
fn a_future_awaits_calls_of_its_own_and_need_not_be_send() {
    let mut routes = Router::new();
    routes.call_async("/sum", |ctx, n: u64| async move {
        let sum = Rc::new(RefCell::new(0));
        for m in 0..n {
            let part: u64 = ctx.session().call("/square", &m).await?;
            *sum.borrow_mut() += part;
        }
        ctx.add_reply_meta("K", "v");
        if let Some(mut count) = ctx.local::<u32>() {
            *count += 1;
        }
        Ok(*sum.borrow())
    });
    let mut squares = Router::new();
    squares.call("/square", |_ctx, n: u64| Ok(n * n));
    let (_server, _client, session) = pair(routes, squares);
    let reply: Reply<u64> = session.call("/sum", &4).wait().expect("sums");
    assert_eq!(reply.body, 14);
    assert_eq!(reply.meta.get_str("K").as_deref(), Some("v"));
    let calls: Vec<_> = (0..50)
        .map(|n: u64| session.call::<_, u64>("/sum", &n).send())
        .collect();
    for (n, call) in calls.into_iter().enumerate() {
        assert_eq!(call.wait(), Ok((0..n as u64).map(|n| n * n).sum()));
    }
}

#[test]
fn a_future_is_woken_by_any_thread_and_delays_nobody() {
    let signal = Signal::default();
    let awaited = signal.clone();
    let mut routes = Router::new();
    routes.call_async("/wait", move |_ctx, _: ()| {
        let awaited = awaited.clone();
        async move {
            awaited.await;
            Ok(7)
        }
    });
    routes.call("/now", |_ctx, _: ()| Ok(1));
    let (_server, _client, session) = pair(routes, Router::new());
    let waiting = session.call::<_, i32>("/wait", &()).send();
    assert_eq!(session.call("/now", &()).wait(), Ok(1));
    eventually("it is polled", || signal.is_polled());
    assert!(waiting.try_result().is_none());
    thread::spawn(move || signal.set())
        .join()
        .expect("it is set");
    assert_eq!(waiting.wait(), Ok(7));
}

#[test]
fn the_future_of_a_cancelled_call_is_dropped() {
    struct Dropped(Arc<AtomicBool>);
    impl Drop for Dropped {
        fn drop(&mut self) {
            self.0.store(true, Ordering::SeqCst);
        }
    }
    let is_dropped = Arc::new(AtomicBool::new(false));
    let flag = is_dropped.clone();
    let (sender, begun) = mpsc::channel();
    let sender = Mutex::new(sender);
    let mut routes = Router::new();
    routes.call_async("/wait", move |_ctx, _: ()| {
        let (guard, sender) = (Dropped(flag.clone()), sender.lock().clone());
        async move {
            let _guard = guard;
            let _ = sender.send(());
            std::future::pending::<()>().await;
            Ok(())
        }
    });
    let (_server, _client, session) = pair(routes, Router::new());
    for end in ["cancel", "abort"] {
        is_dropped.store(false, Ordering::SeqCst);
        let call = session.call::<_, ()>("/wait", &()).send();
        begun.recv_timeout(LONG).expect("it is begun");
        assert!(!is_dropped.load(Ordering::SeqCst));
        match end {
            "cancel" => call.cancel(),
            _ => session.abort(),
        }
        call.wait().expect_err("it has ended");
        eventually("it is dropped", || is_dropped.load(Ordering::SeqCst));
    }
}

#[test]
fn a_panic_in_a_future_costs_its_call() {
    expect_panics();
    let mut routes = Router::new();
    routes.call_async("/panic", |_ctx, now: bool| {
        assert!(!now, "on purpose");
        async move {
            if !now {
                panic!("on purpose, later");
            }
            Ok(())
        }
    });
    routes.call_async("/fail", |_ctx, _: ()| async {
        Err::<(), _>(Status::new(7, "no"))
    });
    let (_server, _client, session) = pair(routes, Router::new());
    for now in [true, false] {
        let status = session
            .call::<_, ()>("/panic", &now)
            .wait()
            .expect_err("panics");
        assert_eq!(status.code, code::INTERNAL_SERVER_ERROR);
        assert!(status.reason.starts_with("on purpose"), "{status}");
    }
    let bad = session
        .call::<_, ()>("/panic", "text")
        .wait()
        .expect_err("fails");
    assert_eq!(bad.code, code::BAD_MESSAGE);
    let failed = session.call::<_, ()>("/fail", &()).wait();
    assert_eq!(failed, Err(Status::new(7, "no")));
}

#[test]
fn a_future_that_wakes_itself_delays_nobody() {
    /// Is polled in each turn until the flag is set.
    struct Busy(Arc<AtomicBool>);

    impl Future for Busy {
        type Output = ();

        fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<()> {
            if self.0.load(Ordering::SeqCst) {
                return Poll::Ready(());
            }
            context.waker().wake_by_ref();
            Poll::Pending
        }
    }

    let is_over = Arc::new(AtomicBool::new(false));
    let flag = is_over.clone();
    let mut routes = Router::new();
    routes.call_async("/busy", move |_ctx, _: ()| {
        let busy = Busy(flag.clone());
        async move {
            busy.await;
            Ok(())
        }
    });
    routes.call("/now", |_ctx, n: u32| Ok(n));
    let (_server, _client, session) = pair(routes, Router::new());
    let busy = session.call::<_, ()>("/busy", &()).send();
    for n in 0..10 {
        assert_eq!(session.call("/now", &n).wait(), Ok(n));
    }
    assert!(busy.try_result().is_none());
    is_over.store(true, Ordering::SeqCst);
    assert_eq!(busy.wait(), Ok(()));
}
