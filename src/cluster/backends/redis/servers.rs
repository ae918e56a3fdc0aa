use std::time::Duration;

use parking_lot::Mutex;
use redis::cluster::ClusterClient;
use redis::sentinel::{SentinelClient, SentinelClientBuilder, SentinelServerType};
use redis::{
    Client, ConnectionInfo, ConnectionLike, IntoConnectionInfo, ProtocolVersion, RedisError,
    TlsCertificates,
};

use super::{RedisBuilder, Topology};
use crate::cluster::Error;
use crate::cluster::backends::pool::Dial;

/// Where the connections lead to.
pub(super) struct Servers {
    topology: Found,
    timeout: Duration,
}

enum Found {
    Single {
        client: Client,
        /// The same server, by the protocol in which subscriptions are confirmed.
        subscriber: Client,
    },
    Cluster {
        client: ClusterClient,
        /// Each server of a cluster passes on what is published at the others.
        subscribers: Vec<Client>,
    },
    Sentinel {
        client: Mutex<SentinelClient>,
        subscriber: Mutex<SentinelClient>,
    },
}

pub(super) type Connection = Box<dyn ConnectionLike + Send>;

impl Servers {
    pub(super) fn new(builder: RedisBuilder) -> Result<Self, Error> {
        let infos = builder
            .urls
            .iter()
            .map(|url| url.as_str().into_connection_info())
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| invalid(&error))?;
        // Without it, TLS would panic in programs where rustls has more than one provider of cryptography. It fails if the program
        // has chosen one, which then serves.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let Some(first) = infos.first() else {
            let problem = "there is none; give the server's, such as redis://127.0.0.1:6379";
            return Err(Error::argument("url", problem));
        };
        let certificates = builder.root_certificates.map(|pem| TlsCertificates {
            client_tls: None,
            root_cert: Some(pem),
        });
        let open = |info: &ConnectionInfo| match &certificates {
            Some(certificates) => Client::build_with_tls(info.clone(), certificates.clone()),
            None => Client::open(info.clone()),
        };
        let topology = match builder.topology {
            Topology::Single => Found::Single {
                client: open(first).map_err(|error| invalid(&error))?,
                subscriber: open(&by_resp2(first)).map_err(|error| invalid(&error))?,
            },
            Topology::Cluster => {
                let mut cluster = ClusterClient::builder(infos.iter().cloned())
                    .connection_timeout(builder.timeout)
                    .response_timeout(builder.timeout);
                if let Some(certificates) = &certificates {
                    cluster = cluster.certs(certificates.clone());
                }
                let subscribers = infos.iter().map(|info| open(&by_resp2(info)));
                Found::Cluster {
                    client: cluster.build().map_err(|error| invalid(&error))?,
                    subscribers: subscribers
                        .collect::<Result<_, _>>()
                        .map_err(|error| invalid(&error))?,
                }
            }
            Topology::Sentinel { master } => {
                let sentinel = |protocol| {
                    let settings = first.redis_settings();
                    let mut client = SentinelClientBuilder::new(
                        infos.iter().map(|info| info.addr().clone()),
                        master.clone(),
                        SentinelServerType::Master,
                    )?
                    .set_client_to_redis_db(settings.db())
                    .set_client_to_redis_protocol(protocol);
                    if let Some(username) = settings.username() {
                        client = client.set_client_to_redis_username(username);
                    }
                    if let Some(password) = settings.password() {
                        client = client.set_client_to_redis_password(password);
                    }
                    if let Some(certificates) = &certificates {
                        client = client
                            .set_client_to_redis_certificates(certificates.clone())
                            .set_client_to_sentinel_certificates(certificates.clone());
                    }
                    Ok(Mutex::new(client.build()?))
                };
                let sentinel = |protocol| sentinel(protocol).map_err(|error| invalid(&error));
                Found::Sentinel {
                    client: sentinel(first.redis_settings().protocol())?,
                    subscriber: sentinel(ProtocolVersion::RESP2)?,
                }
            }
        };
        Ok(Self {
            topology,
            timeout: builder.timeout,
        })
    }

    pub(super) fn is_cluster(&self) -> bool {
        matches!(self.topology, Found::Cluster { .. })
    }

    pub(super) fn dial_for_subscriptions(&self) -> Result<redis::Connection, RedisError> {
        match &self.topology {
            Found::Single { subscriber, .. } => self.open(subscriber),
            Found::Sentinel { subscriber, .. } => self.limit(subscriber.lock().get_connection()?),
            Found::Cluster { subscribers, .. } => {
                let mut dialled = subscribers.iter().map(|client| self.open(client));
                let last = dialled.next_back();
                let first = dialled.find(Result::is_ok);
                first.or(last).unwrap_or_else(|| {
                    Err((redis::ErrorKind::InvalidClientConfig, "there is no server").into())
                })
            }
        }
    }

    fn open(&self, client: &Client) -> Result<redis::Connection, RedisError> {
        self.limit(client.get_connection_with_timeout(self.timeout)?)
    }

    fn limit(&self, connection: redis::Connection) -> Result<redis::Connection, RedisError> {
        connection.set_read_timeout(Some(self.timeout))?;
        connection.set_write_timeout(Some(self.timeout))?;
        Ok(connection)
    }

    fn connect(&self) -> Result<Connection, RedisError> {
        Ok(match &self.topology {
            Found::Single { client, .. } => Box::new(self.open(client)?),
            Found::Sentinel { client, .. } => {
                Box::new(self.limit(client.lock().get_connection()?)?)
            }
            Found::Cluster { client, .. } => {
                let connection = client.get_connection()?;
                connection.set_read_timeout(Some(self.timeout))?;
                connection.set_write_timeout(Some(self.timeout))?;
                Box::new(connection)
            }
        })
    }
}

impl Dial for Servers {
    type Connection = Connection;

    const BACKEND: &'static str = "redis";

    fn dial(&self) -> Result<Connection, String> {
        self.connect().map_err(|error| error.to_string())
    }

    fn is_alive(&self, connection: &mut Connection) -> bool {
        connection.is_open() && connection.check_connection()
    }
}

/// In RESP2 a subscription is confirmed by an answer of its own.
fn by_resp2(info: &ConnectionInfo) -> ConnectionInfo {
    let settings = info.redis_settings().clone();
    info.clone()
        .set_redis_settings(settings.set_protocol(ProtocolVersion::RESP2))
}

fn invalid(error: &RedisError) -> Error {
    Error::argument(
        "url",
        format!("{error}; give one such as redis://USER:PASSWORD@HOST:PORT/0"),
    )
}
