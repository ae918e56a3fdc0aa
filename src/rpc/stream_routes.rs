//! The routes of streams.

use std::sync::Arc;

use super::context::{AsyncCtx, CallCtx};
use super::router::{
    AsyncStreamFn, Begin, BeginAsync, CallHandler, Router, StreamFn, StreamHandler, StreamRun,
};
use super::stream_ends::{Accepted, ScopedEnds, StreamEnds};
use super::wire::{DecodeBody, Status};

/// # Streams
impl Router {
    /// Adds a handler of streams. It runs on the reactor and must not block. Its ends of the stream can go to any other thread, and
    /// the stream goes on after the handler has returned. The type of the ends says who sends: see [`StreamEnds`].
    ///
    /// The stream is accepted before the handler runs. [`Sender::fail`](super::Sender::fail) refuses it.
    ///
    /// ```
    /// use epicycle::rpc::{Receiver, Responder, Router, Sender};
    ///
    /// let mut routes = Router::new();
    /// // Server streaming.
    /// routes.stream("/ticks", |_ctx, every_ms: u64, tx: Sender<u64>| {
    ///     std::thread::spawn(move || {
    ///         for tick in 0.. {
    ///             if tx.send_wait(&tick).is_err() {
    ///                 return;
    ///             }
    ///             std::thread::sleep(std::time::Duration::from_millis(every_ms));
    ///         }
    ///     });
    /// });
    /// // Client streaming.
    /// routes.stream("/sum", |_ctx, _: (), (rx, reply): (Receiver<i64>, Responder<i64>)| {
    ///     let sum = std::sync::Arc::new(std::sync::atomic::AtomicI64::new(0));
    ///     let total = sum.clone();
    ///     rx.on_item(
    ///         move |n| {
    ///             sum.fetch_add(n, std::sync::atomic::Ordering::Relaxed);
    ///         },
    ///         move |end| reply.send(end.map(|()| total.load(std::sync::atomic::Ordering::Relaxed))),
    ///     );
    /// });
    /// ```
    pub fn stream<A, S, F>(&mut self, path: &str, handler: F)
    where
        A: DecodeBody + Send + 'static,
        S: StreamEnds,
        F: Fn(&CallCtx<'_>, A, S) + Send + Sync + 'static,
    {
        let handler = Arc::new(handler);
        let run: Box<StreamFn> = Box::new(move |ctx| {
            let (handler, arg): (_, A) = (handler.clone(), ctx.argument()?);
            let begin: Begin = Box::new(move |ctx, accepted| {
                handler(ctx, arg, S::of(accepted));
                Ok(())
            });
            Ok(begin)
        });
        self.add_stream::<A, S>(path, S::RECEIVES, StreamRun::OnLoop(run));
    }

    /// Adds a handler of streams that runs on the peer's worker pool, where it may block. It holds a worker as long as it runs. The
    /// stream ends with its result. The type of the ends says who sends: see [`ScopedEnds`].
    ///
    /// ```
    /// use epicycle::rpc::{Receiver, Router, Sender};
    ///
    /// let mut routes = Router::new();
    /// routes.stream_blocking("/lines", |_ctx, path: String, tx: Sender<String>| {
    ///     for line in std::fs::read_to_string(path).unwrap_or_default().lines() {
    ///         tx.send_wait(&line.to_owned())?;
    ///     }
    ///     Ok(())
    /// });
    /// routes.stream_blocking("/sum", |_ctx, _: (), rx: Receiver<i64>| {
    ///     let mut sum = 0;
    ///     for n in rx {
    ///         sum += n?;
    ///     }
    ///     Ok(sum)
    /// });
    /// ```
    pub fn stream_blocking<A, S, R, F>(&mut self, path: &str, handler: F)
    where
        A: DecodeBody + Send + 'static,
        S: ScopedEnds<R>,
        F: Fn(&CallCtx<'_>, A, S) -> Result<R, Status> + Send + Sync + 'static,
    {
        let handler = Arc::new(handler);
        let run: Box<StreamFn> = Box::new(move |ctx| {
            let (handler, arg): (_, A) = (handler.clone(), ctx.argument()?);
            let begin: Begin = Box::new(move |ctx, accepted| {
                let result = handler(ctx, arg, S::of(&accepted))?;
                S::give(result, &accepted)
            });
            Ok(begin)
        });
        self.add_stream::<A, S>(path, S::RECEIVES, StreamRun::Blocking(run));
    }

    /// Adds a handler of streams that is a future, as that of [`call_async`](Self::call_async) is. The stream ends with its result.
    /// If the stream is cancelled, the future is dropped. The type of the ends says who sends: see [`ScopedEnds`].
    ///
    /// ```
    /// use epicycle::rpc::{Receiver, Router, Sender};
    ///
    /// let mut routes = Router::new();
    /// type Both = (Sender<String>, Receiver<String>);
    /// routes.stream_async("/shout", |_ctx, _: (), (tx, mut rx): Both| async move {
    ///     while let Some(text) = rx.next().await {
    ///         tx.send_async(&text?.to_uppercase()).await?;
    ///     }
    ///     Ok(())
    /// });
    /// ```
    pub fn stream_async<A, S, R, F, Fut>(&mut self, path: &str, handler: F)
    where
        A: DecodeBody + 'static,
        S: ScopedEnds<R>,
        R: 'static,
        F: Fn(AsyncCtx, A, S) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, Status>> + 'static,
    {
        let handler = Arc::new(handler);
        let run: Box<AsyncStreamFn> = Box::new(move |ctx| {
            let (handler, arg): (_, A) = (handler.clone(), ctx.argument()?);
            let begin: BeginAsync = Box::new(move |accepted: Accepted| {
                let future = handler(ctx, arg, S::of(&accepted));
                Box::pin(async move {
                    S::give(future.await?, &accepted)?;
                    Ok(Vec::new())
                })
            });
            Ok(begin)
        });
        self.add_stream::<A, S>(path, S::RECEIVES, StreamRun::Async(run));
    }

    fn add_stream<A, S>(&mut self, path: &str, receives: bool, run: StreamRun) {
        let handler = StreamHandler { receives, run };
        self.add_call::<A, S>(path, CallHandler::Stream(handler));
    }
}
