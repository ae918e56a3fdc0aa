//! The connections of both sides: TCP, with TLS or without.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Sleep, sleep, timeout};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tonic::transport::Uri;
use tonic::transport::server::{Connected, TcpConnectInfo};
use tower_service::Service;

use crate::tls::{TlsClient, TlsServer};

/// The time within which a connection must be there, with its TLS. A call then goes to another instance.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
/// The bytes with which HTTP/2 begins.
const PREFACE: usize = 24;
/// The time after which a listener tries again when the system has no room.
const ACCEPT_DELAY: Duration = Duration::from_millis(100);

/// The bytes of a connection.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<S: AsyncRead + AsyncWrite + Send + Unpin> Io for S {}

/// A connection of a server.
pub(super) struct Accepted {
    io: Box<dyn Io>,
    info: TcpConnectInfo,
    /// Ends the connection, unless the client speaks.
    opening: Option<Opening>,
    _permit: OwnedSemaphorePermit,
}

struct Opening {
    ends: Pin<Box<Sleep>>,
    missing: usize,
}

/// Accepts connections until it is aborted, each with a permit. A client has that long to begin to speak HTTP/2.
pub(super) async fn accept(
    listener: TcpListener,
    tls: Option<TlsServer>,
    handshake_timeout: Duration,
    permits: Arc<Semaphore>,
    to: mpsc::Sender<io::Result<Accepted>>,
) {
    while let Ok(permit) = permits.clone().acquire_owned().await {
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                log::warn!(target: "epicycle::cluster", "gRPC: a connection is not accepted: {error}");
                sleep(ACCEPT_DELAY).await;
                continue;
            }
        };
        let (tls, to) = (tls.clone(), to.clone());
        tokio::spawn(async move {
            match open(stream, tls, handshake_timeout, permit).await {
                // If the server ends meanwhile, so does the connection.
                Ok(accepted) => drop(to.send(Ok(accepted)).await),
                Err(error) => {
                    log::debug!(target: "epicycle::cluster", "gRPC: a handshake failed: {error}");
                }
            }
        });
    }
}

async fn open(
    stream: TcpStream,
    tls: Option<TlsServer>,
    handshake_timeout: Duration,
    permit: OwnedSemaphorePermit,
) -> io::Result<Accepted> {
    stream.set_nodelay(true)?;
    let info = stream.connect_info();
    let io: Box<dyn Io> = match tls {
        None => Box::new(stream),
        Some(tls) => {
            let handshake = TlsAcceptor::from(tls.config()).accept(stream);
            Box::new(timeout(tls.handshake_limit(), handshake).await??)
        }
    };
    Ok(Accepted {
        io,
        info,
        opening: Some(Opening {
            ends: Box::pin(sleep(handshake_timeout)),
            missing: PREFACE,
        }),
        _permit: permit,
    })
}

impl Connected for Accepted {
    type ConnectInfo = TcpConnectInfo;

    fn connect_info(&self) -> TcpConnectInfo {
        self.info.clone()
    }
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.io).poll_read(cx, buf);
        let Some(opening) = &mut self.opening else {
            return read;
        };
        if read.is_pending() {
            ready!(opening.ends.as_mut().poll(cx));
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        opening.missing = opening.missing.saturating_sub(buf.filled().len() - before);
        if opening.missing == 0 {
            self.opening = None;
        }
        read
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        parts: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, parts)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// Connects to one address.
#[derive(Clone)]
pub(super) struct Connector {
    /// `HOST:PORT`.
    pub(super) address: Arc<str>,
    pub(super) tls: Option<(TlsClient, ServerName<'static>)>,
}

impl Connector {
    async fn connect(self) -> io::Result<TokioIo<Box<dyn Io>>> {
        let stream = TcpStream::connect(&*self.address).await?;
        stream.set_nodelay(true)?;
        let io: Box<dyn Io> = match self.tls {
            None => Box::new(stream),
            Some((tls, name)) => {
                let connector = TlsConnector::from(tls.config());
                Box::new(connector.connect(name, stream).await?)
            }
        };
        Ok(TokioIo::new(io))
    }
}

impl Service<Uri> for Connector {
    type Response = TokioIo<Box<dyn Io>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Uri) -> Self::Future {
        let connect = self.clone().connect();
        Box::pin(async move { timeout(CONNECT_TIMEOUT, connect).await? })
    }
}
