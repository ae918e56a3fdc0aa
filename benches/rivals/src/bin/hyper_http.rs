//! HTTP/1.1 with hyper on tokio's `current_thread` runtime: each answer is 12 bytes of text.

use std::convert::Infallible;
use std::error::Error;

use clap::Parser;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rivals::Flags;

fn main() -> Result<(), Box<dyn Error>> {
    rivals::listen(Flags::parse().addr(), |stream| async {
        // The load ends without a graceful close of its connections.
        let _ = http1::Builder::new()
            .pipeline_flush(true)
            .serve_connection(TokioIo::new(stream), service_fn(hello))
            .await;
    })
}

async fn hello(_: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let mut response = Response::new(Full::new(Bytes::from_static(b"Hello World!")));
    let text = HeaderValue::from_static("text/plain");
    response.headers_mut().insert(CONTENT_TYPE, text);
    Ok(response)
}
