//! The seam between meshes and the protocol of their calls.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use crate::Bytes;
use crate::cluster::Error;
use crate::cluster::codec::Codec;
use crate::cluster::drpc::Secret;
use crate::metrics::Exposition;

/// A protocol that carries the calls of meshes, such as gRPC. That of [`rpc`](crate::rpc) is the default.
///
/// It keeps the services in the form in which its protocol has them. A mesh starts its server and registers the address; a client
/// asks it for a channel to each target, and tells that the addresses as they change.
///
/// # Examples
///
/// A transporter whose servers answer each call with the call itself, over connections of their own:
///
/// ```
/// use std::io::{Read, Write};
/// use std::net::{SocketAddr, TcpListener, TcpStream};
/// use std::sync::{Arc, Mutex};
/// use std::thread;
/// use std::time::Duration;
/// use epicycle::Bytes;
/// use epicycle::cluster::Error;
/// use epicycle::cluster::mesh::{
///     Channel, Done, Mesh, MeshAddress, MeshClient, MeshRequest, MeshServer, Transporter,
/// };
/// use epicycle::cluster::registry::MemoryRegistry;
///
/// struct Echo;
/// struct EchoServer(TcpListener);
/// #[derive(Default)]
/// struct EchoChannel(Mutex<Vec<MeshAddress>>);
///
/// fn broken(error: impl ToString) -> Error {
///     Error::Backend { backend: "echo", problem: error.to_string() }
/// }
///
/// impl Transporter for Echo {
///     fn scheme(&self) -> &str { "echo" }
///     fn services(&self) -> Vec<String> { vec!["echo".to_owned()] }
///     fn serve(self: Box<Self>) -> Result<Box<dyn MeshServer>, Error> {
///         let listener = TcpListener::bind("127.0.0.1:0").map_err(broken)?;
///         let accepting = listener.try_clone().map_err(broken)?;
///         thread::spawn(move || for mut stream in accepting.incoming().flatten() {
///             let mut call = Vec::new();
///             let _ = stream.read_to_end(&mut call).and_then(|_| stream.write_all(&call));
///         });
///         Ok(Box::new(EchoServer(listener)))
///     }
///     fn channel(&self) -> Result<Arc<dyn Channel>, Error> { Ok(Arc::new(EchoChannel::default())) }
/// }
///
/// impl MeshServer for EchoServer {
///     fn addr(&self) -> SocketAddr { self.0.local_addr().expect("is bound") }
///     fn shutdown(&self, _deadline: Duration) {}
/// }
///
/// impl Channel for EchoChannel {
///     fn set_addresses(&self, addresses: &[MeshAddress]) -> Result<(), Error> {
///         *self.0.lock().expect("is sound") = addresses.to_vec();
///         Ok(())
///     }
///     fn call(&self, request: MeshRequest, done: Done) {
///         let to = self.0.lock().expect("is sound")[0].address.clone();
///         thread::spawn(move || {
///             let ask = || -> std::io::Result<Bytes> {
///                 let mut stream = TcpStream::connect(to)?;
///                 stream.write_all(&request.body)?;
///                 stream.shutdown(std::net::Shutdown::Write)?;
///                 let mut reply = Vec::new();
///                 stream.read_to_end(&mut reply)?;
///                 Ok(reply.into())
///             };
///             done(ask().map_err(broken));
///         });
///     }
/// }
///
/// let registry = MemoryRegistry::new();
/// let mesh = Mesh::builder().registry(registry.clone()).transporter(Echo).start()?;
/// let client = MeshClient::builder().registry(registry).transporter(Echo).start()?;
/// assert_eq!(client.call::<_, String>("/echo/any", "hello").wait()?, "hello");
/// # drop(mesh);
/// # Ok::<(), Error>(())
/// ```
pub trait Transporter: Send + Sync + 'static {
    /// Returns the scheme of its endpoints in the registry. A client calls only instances with the scheme of its transporter.
    fn scheme(&self) -> &str;

    /// Takes the secret of the cluster, before it serves or makes channels: calls of those who lack it are refused, and its own calls
    /// show that they have it. The default takes none.
    ///
    /// # Errors
    ///
    /// An [`Error`] that tells that it takes none.
    fn set_secret(&mut self, secret: &Secret) -> Result<(), Error> {
        let _ = secret;
        let problem = "this transporter takes none; it has to check its callers by itself";
        Err(Error::argument("secret", problem))
    }

    /// Returns the names of the services that [`serve`](Self::serve) serves.
    fn services(&self) -> Vec<String>;

    /// Starts a server.
    ///
    /// # Errors
    ///
    /// An [`Error`] that names the wrong address or option.
    fn serve(self: Box<Self>) -> Result<Box<dyn MeshServer>, Error>;

    /// Returns a channel, which has no addresses yet.
    ///
    /// # Errors
    ///
    /// An [`Error`] that names the wrong option.
    fn channel(&self) -> Result<Arc<dyn Channel>, Error>;
}

/// A running server of a [`Transporter`].
pub trait MeshServer: Send + Sync + 'static {
    /// Returns the address that it listens on.
    fn addr(&self) -> SocketAddr;

    /// Returns true if clients must use TLS.
    fn is_secure(&self) -> bool {
        false
    }

    /// Adds the metrics of the server, each with these labels. The default adds none.
    fn expose(&self, labels: &[(&str, &str)], to: &mut Exposition) {
        let _ = (labels, to);
    }

    /// Takes no more calls, lets those under way end within this time, and waits for the end. It is called once.
    fn shutdown(&self, deadline: Duration);
}

/// The connections to the instances of one target.
///
/// When the last handle is dropped, the calls under way end first.
pub trait Channel: Send + Sync + 'static {
    /// Takes the addresses that calls are spread over from now on. What stays keeps its connections. There is at least one.
    ///
    /// # Errors
    ///
    /// An [`Error`] that names the wrong address.
    fn set_addresses(&self, addresses: &[MeshAddress]) -> Result<(), Error>;

    /// Makes a call. Calls `done` exactly once, from any thread. It must not block.
    fn call(&self, request: MeshRequest, done: Done);
}

/// Takes the body of the reply, or the reason why there is none.
pub type Done = Box<dyn FnOnce(Result<Bytes, Error>) + Send>;

/// The address of an instance.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct MeshAddress {
    /// `HOST:PORT`.
    pub address: String,
    /// True if it is reached by TLS.
    pub secure: bool,
    /// The share of the calls that it gets, relative to the others: at least 1.
    pub weight: u32,
}

/// A call on its way.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct MeshRequest {
    /// The service and the method: `/math/add`.
    pub path: String,
    /// The codec of the body, and of the reply.
    pub codec: Codec,
    /// The encoded argument.
    pub body: Bytes,
    /// The time within which the call must end.
    pub timeout: Duration,
    /// The hash of the key of the call, if it has one: the same key goes to the same instance, if the balancer goes by keys.
    pub key: Option<u64>,
    /// True if the call may be carried out more than once.
    pub is_idempotent: bool,
}
