use std::time::Duration;

use redis::cluster::ClusterClient;
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
    /// For errors.
    addresses: String,
    is_secure: bool,
    timeout: Duration,
    certificates: Option<TlsCertificates>,
}

enum Found {
    /// With the same server by the protocol in which subscriptions are confirmed.
    Single { client: Client, subscriber: Client },
    /// Each server of a cluster passes on what is published at the others.
    Cluster {
        client: ClusterClient,
        subscribers: Vec<Client>,
    },
    Sentinel {
        sentinels: Vec<ConnectionInfo>,
        master: String,
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
        let addresses: Vec<_> = infos.iter().map(|info| info.addr().to_string()).collect();
        let is_secure = matches!(first.addr(), redis::ConnectionAddr::TcpTls { .. });
        let certificates = builder.root_certificates.map(|pem| TlsCertificates {
            client_tls: None,
            root_cert: Some(pem),
        });
        let open = |info| open(info, certificates.as_ref()).map_err(|error| invalid(&error));
        let topology = match builder.topology {
            Topology::Single => Found::Single {
                client: open(first.clone())?,
                subscriber: open(by_resp2(first))?,
            },
            Topology::Cluster => {
                // A call that is repeated may be carried out twice, so there are few repetitions. One is needed when slots move.
                let mut cluster = ClusterClient::builder(infos.iter().cloned())
                    .connection_timeout(builder.timeout)
                    .response_timeout(builder.timeout)
                    .retries(3)
                    .min_retry_wait(20)
                    .max_retry_wait(200);
                if let Some(certificates) = &certificates {
                    cluster = cluster.certs(certificates.clone());
                }
                let subscribers = infos.iter().map(|info| open(by_resp2(info)));
                Found::Cluster {
                    client: cluster.build().map_err(|error| invalid(&error))?,
                    subscribers: subscribers.collect::<Result<_, _>>()?,
                }
            }
            Topology::Sentinel { master } => Found::Sentinel {
                sentinels: infos,
                master,
            },
        };
        Ok(Self {
            topology,
            addresses: addresses.join(", "),
            is_secure,
            timeout: builder.timeout,
            certificates,
        })
    }

    /// Returns what an error means, with the server and the remedy.
    pub(super) fn describe(&self, error: &RedisError) -> String {
        let addresses = &self.addresses;
        if is_about_user(error) {
            return format!(
                "{addresses}: {error}; check the user and the password in the URL: redis://USER:PASSWORD@HOST:PORT"
            );
        }
        if error.is_timeout() {
            let remedy = match self.is_secure {
                true => "; check that it does not hang, and that its port is one for TLS",
                false => "; check that it does not hang, and that its port is one of Redis",
            };
            let timeout = self.timeout;
            return format!("{addresses}: it has not answered within {timeout:?}{remedy}");
        }
        format!("{addresses}: {error}")
    }

    pub(super) fn dial_for_subscriptions(&self) -> Result<redis::Connection, RedisError> {
        match &self.topology {
            Found::Single { subscriber, .. } => self.connect_to(subscriber),
            Found::Cluster { subscribers, .. } => {
                first_of(subscribers, |client| self.connect_to(client))
            }
            Found::Sentinel { sentinels, master } => {
                self.connect_to_master(sentinels, master, Some(ProtocolVersion::RESP2))
            }
        }
    }

    fn connect(&self) -> Result<Connection, RedisError> {
        Ok(match &self.topology {
            Found::Single { client, .. } => Box::new(self.connect_to(client)?),
            Found::Sentinel { sentinels, master } => {
                Box::new(self.connect_to_master(sentinels, master, None)?)
            }
            Found::Cluster { client, .. } => {
                let connection = client.get_connection()?;
                connection.set_read_timeout(Some(self.timeout))?;
                connection.set_write_timeout(Some(self.timeout))?;
                Box::new(connection)
            }
        })
    }

    fn connect_to(&self, client: &Client) -> Result<redis::Connection, RedisError> {
        let connection = client.get_connection_with_timeout(self.timeout)?;
        connection.set_read_timeout(Some(self.timeout))?;
        connection.set_write_timeout(Some(self.timeout))?;
        Ok(connection)
    }

    /// Asks one sentinel after the other where the master is. Sentinels and master have the same user, and TLS or not.
    fn connect_to_master(
        &self,
        sentinels: &[ConnectionInfo],
        master: &str,
        protocol: Option<ProtocolVersion>,
    ) -> Result<redis::Connection, RedisError> {
        first_of(sentinels, |sentinel| {
            let settings = sentinel.redis_settings().clone();
            // A sentinel has no databases.
            let asked = sentinel
                .clone()
                .set_redis_settings(settings.clone().set_db(0));
            let mut asked = self.connect_to(&open(asked, self.certificates.as_ref())?)?;
            let mut ask = redis::cmd("SENTINEL");
            ask.arg("GET-MASTER-ADDR-BY-NAME").arg(master);
            let Some((host, port)) = ask.query::<Option<(String, u16)>>(&mut asked)? else {
                let problem = (
                    redis::ErrorKind::InvalidClientConfig,
                    "the sentinel knows no master of this name",
                    master.to_owned(),
                );
                return Err(problem.into());
            };
            let addr = match sentinel.addr() {
                redis::ConnectionAddr::TcpTls {
                    insecure,
                    tls_params,
                    ..
                } => redis::ConnectionAddr::TcpTls {
                    host,
                    port,
                    insecure: *insecure,
                    tls_params: tls_params.clone(),
                },
                _ => redis::ConnectionAddr::Tcp(host, port),
            };
            let settings = match protocol {
                Some(protocol) => settings.set_protocol(protocol),
                None => settings,
            };
            let info = sentinel.clone().set_addr(addr).set_redis_settings(settings);
            let mut connection = self.connect_to(&open(info, self.certificates.as_ref())?)?;
            let role: redis::Value = redis::cmd("ROLE").query(&mut connection)?;
            match role {
                redis::Value::Array(role) if role.first().is_some_and(is_master) => Ok(connection),
                _ => Err((
                    redis::ErrorKind::Io,
                    "the server that the sentinel names is no master",
                )
                    .into()),
            }
        })
    }
}

/// Returns true if the server does not know who asks. On that connection it will answer nothing.
pub(super) fn is_about_user(error: &RedisError) -> bool {
    error.kind() == redis::ErrorKind::AuthenticationFailed
        || matches!(error.code(), Some("NOAUTH" | "WRONGPASS"))
}

fn is_master(role: &redis::Value) -> bool {
    match role {
        redis::Value::BulkString(role) => role == b"master",
        redis::Value::SimpleString(role) => role == "master",
        _ => false,
    }
}

/// Returns what the first that does not fail gives, or the error of the last.
fn first_of<T, R>(
    all: &[T],
    mut attempt: impl FnMut(&T) -> Result<R, RedisError>,
) -> Result<R, RedisError> {
    let mut last = (
        redis::ErrorKind::InvalidClientConfig,
        "there is no server to dial",
    )
        .into();
    for one in all {
        match attempt(one) {
            Ok(result) => return Ok(result),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn open(
    info: ConnectionInfo,
    certificates: Option<&TlsCertificates>,
) -> Result<Client, RedisError> {
    match certificates {
        Some(certificates) => Client::build_with_tls(info, certificates.clone()),
        None => Client::open(info),
    }
}

impl Dial for Servers {
    type Connection = Connection;

    const BACKEND: &'static str = "redis";

    fn dial(&self) -> Result<Connection, String> {
        self.connect().map_err(|error| self.describe(&error))
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
