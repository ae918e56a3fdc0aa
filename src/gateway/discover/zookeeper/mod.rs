//! The children of a node of ZooKeeper as a source.
//!
//! | File | |
//! |---|---|
//! | `jute.rs` | the messages |
//! | `watcher.rs` | the session: what is asked, and what replies and events mean; without sockets and clocks |
//! | `client.rs` | the connection: servers, times, and the way back to the source |

mod client;
mod jute;
mod watcher;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use self::client::ZooKeeperClient;
use self::watcher::Watcher;
use super::{Discover, DiscoverError, Stop};
use crate::engine::client::Client;
use crate::engine::server::Running;
use crate::gateway::settings::{NodeSettings, ZooKeeperSettings, ZooKeeperTarget};

#[cfg(feature = "internals")]
pub use self::fuzzed::zookeeper_frames;

/// The children of a node of ZooKeeper as the nodes of a pool, by watches.
///
/// A session is kept open, on a reactor of its own. A change of the children, or of their data if that names the nodes, is told
/// within a tenth of a second. A child that names no node is skipped, which is logged. If the server does not answer, the next one is
/// asked, and the session goes on there; if it has expired, another one begins.
///
/// ```no_run
/// use epicycle::gateway::Gateway;
/// use epicycle::gateway::discover::ZooKeeperSource;
/// use epicycle::gateway::settings::ZooKeeperSettings;
///
/// let gateway = Gateway::builder().listen("tcp://127.0.0.1:0").to("http://127.0.0.1:9000").build()?;
/// let running = gateway.start_plain()?;
/// let settings = ZooKeeperSettings::new("zk1:2181,zk2:2181/services/app");
/// let source = ZooKeeperSource::new(settings, false).expect("it is sound");
/// running.control().discover("default", source)?;
/// # Ok::<(), epicycle::gateway::GatewayError>(())
/// ```
pub struct ZooKeeperSource {
    settings: ZooKeeperSettings,
    target: ZooKeeperTarget,
    uses_tls: bool,
    running: Option<Running<ZooKeeperClient>>,
    news: Arc<News>,
}

/// The last news of a client that the source has not passed on.
#[derive(Default)]
struct News(Mutex<Option<Result<Vec<NodeSettings>, String>>>);

impl ZooKeeperSource {
    /// Returns a source, which connects once it is followed. `uses_tls` tells whether the pool's own settings make its nodes speak TLS.
    ///
    /// # Errors
    ///
    /// The problem of the servers or of the path, and its remedy.
    pub fn new(settings: ZooKeeperSettings, uses_tls: bool) -> Result<Self, DiscoverError> {
        Ok(Self {
            target: settings.target()?,
            settings,
            uses_tls,
            running: None,
            news: Arc::default(),
        })
    }

    fn start(&self, stop: &Stop) -> Result<Running<ZooKeeperClient>, DiscoverError> {
        let (settings, target, uses_tls) =
            (self.settings.clone(), self.target.clone(), self.uses_tls);
        let (news, stop) = (self.news.clone(), stop.clone());
        let tell = Arc::new(move |told| {
            *news.0.lock() = Some(told);
            stop.wake();
        });
        let running = Client::new().start(move |_| {
            let timeout = settings.session_timeout.as_millis();
            let watcher = Watcher::new(
                target.path.clone(),
                settings.form,
                settings.auth.clone(),
                uses_tls,
                i32::try_from(timeout).unwrap_or(i32::MAX),
            );
            ZooKeeperClient::new(
                target.servers.clone(),
                watcher,
                settings.session_timeout,
                tell.clone(),
            )
        });
        Ok(running?)
    }
}

impl Discover for ZooKeeperSource {
    fn next(&mut self, stop: &Stop) -> Result<Option<Vec<NodeSettings>>, DiscoverError> {
        if self.running.is_none() {
            self.running = Some(self.start(stop)?);
        }
        loop {
            let news = self.news.0.lock().take();
            if let Some(news) = news {
                return Ok(Some(news?));
            }
            if stop.wait_for_wake(Duration::MAX) {
                return Ok(None);
            }
        }
    }
}

impl Drop for ZooKeeperSource {
    fn drop(&mut self) {
        if let Some(running) = self.running.take() {
            // The server need not wait for the timeout of the session.
            let _ = running.engine().run_on(0, ZooKeeperClient::end);
            running.engine().shutdown_within(Duration::from_secs(1));
            running.join();
        }
    }
}

impl fmt::Debug for ZooKeeperSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ZooKeeperSource")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

#[cfg(feature = "internals")]
mod fuzzed {
    use super::watcher::{Told, Watcher};
    use crate::gateway::discover::MAX_NODES;
    use crate::gateway::settings::ChildForm;

    /// Gives the frames of a server to a client, which reads its node whenever it wants to. Returns the number of nodes that it
    /// has learnt. For fuzzing.
    pub fn zookeeper_frames<'a>(by_data: bool, frames: impl Iterator<Item = &'a [u8]>) -> usize {
        let form = if by_data {
            ChildForm::Data
        } else {
            ChildForm::Name
        };
        let mut watcher = Watcher::new("/app".to_owned(), form, None, false, 10_000);
        let mut learnt = 0;
        let mut out = vec![watcher.begin()];
        for frame in frames {
            match watcher.on_frame(frame, &mut out) {
                Ok(Some(Told::List { nodes, .. })) => {
                    assert!(nodes.len() <= MAX_NODES);
                    learnt += nodes.len();
                }
                Ok(Some(Told::Expired)) | Err(_) => out.push(watcher.begin()),
                Ok(_) => {}
            }
            if watcher.wants_read() {
                watcher.read(&mut out);
            }
            assert!(
                out.len() <= MAX_NODES + 4,
                "a frame costs {} frames",
                out.len()
            );
            out.clear();
        }
        learnt
    }
}
