//! Services that tonic has generated.

use std::convert::Infallible;
use std::future::poll_fn;
use std::pin::Pin;

use tonic::body::Body;
use tower_service::Service;

/// A service whose type is not known.
pub(super) trait Host: Send + Sync + 'static {
    fn answer(&self, request: http::Request<Body>) -> Answer;
}

pub(super) type Answer =
    Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

impl<S> Host for S
where
    S: Service<http::Request<Body>, Response = http::Response<Body>, Error = Infallible>,
    S: Clone + Send + Sync + 'static,
    S::Future: Send,
{
    fn answer(&self, request: http::Request<Body>) -> Answer {
        let mut service = self.clone();
        Box::pin(async move {
            poll_fn(|cx| service.poll_ready(cx)).await?;
            service.call(request).await
        })
    }
}
