//! The options of peers in a file.

use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use serde::de::{self, DeserializeSeed, MapAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::builder::PeerBuilder;
use super::go_duration;
use crate::addr::{Endpoint, Family};
use crate::engine::connect::Reconnect;
use crate::error::Error;

/// The options of a peer, as a file has them: the keys of Teleport's `PeerConfig`, and those of its socket options.
///
/// It is read from and written to any format of serde: YAML, TOML, INI, JSON. A key that is missing, or null, keeps its default.
/// Durations are texts as Go writes them, such as `1m30s`, `1.5s`, `100ms` and `0s`; a negative one counts as zero, as with
/// Teleport. An unknown key, a key given twice and a value that cannot be used are errors that name the key, the value and what
/// is allowed.
///
/// | Key | Is | Default | Option |
/// |---|---|---|---|
/// | `network` | `tcp`, `tcp4`, `tcp6`, `unix` or `unixpacket` | `tcp` | [`listen`](PeerBuilder::listen) |
/// | `local_ip` | the address to listen on and to dial from; for Unix sockets the path | every address | `listen`, [`dial_from`](PeerBuilder::dial_from) |
/// | `listen_port` | the port to listen on; 0: the peer does not listen | 0 | `listen` |
/// | `default_dial_timeout` | the timeout of dials that set none; 0: that of [`Connect`](crate::Connect) | `0s` | [`dial_timeout`](PeerBuilder::dial_timeout) |
/// | `redial_times` | the attempts to connect again after a session's connection broke; below 0: without end | 0 | [`redial`](PeerBuilder::redial), with delays from 100 ms to 10 s |
/// | `default_body_codec` | the name of the codec of bodies for which no other is set | `json` | [`body_codec`](PeerBuilder::body_codec) |
/// | `default_session_age` | the maximum age of sessions; 0: none | `0s` | [`session_age`](PeerBuilder::session_age) |
/// | `default_context_age` | the time for a handler that replies later; 0: that of its caller | `0s` | [`handle_timeout`](PeerBuilder::handle_timeout) |
/// | `slow_comet_duration` | the time from which on calls are logged as slow; 0: none are | `0s` | [`slow`](PeerBuilder::slow) |
/// | `print_detail` | whether metadata and bodies are logged | `false` | [`log_details`](PeerBuilder::log_details) |
/// | `count_time` | whether the times of calls are measured | `false` | [`count_time`](PeerBuilder::count_time) |
/// | `message_size_limit` | the most bytes of a received message; 0: the default | 0 | [`limits`](PeerBuilder::limits) |
/// | `keepalive` | whether silent TCP connections are probed | `false` | [`Server::keepalive`](crate::Server::keepalive) |
/// | `keepalive_period` | the time of silence before a probe, and between probes, in whole seconds | `15s` | the same |
/// | `nodelay` | whether small writes are sent at once | `true` | [`Server::nodelay`](crate::Server::nodelay) |
/// | `read_buffer` | the size of the kernel's receive buffer in bytes; 0: the system's | 0 | [`Server::recv_buffer`](crate::Server::recv_buffer) |
/// | `write_buffer` | the size of the kernel's send buffer in bytes; 0: the system's | 0 | [`Server::send_buffer`](crate::Server::send_buffer) |
///
/// With `network: unix` the path of the socket is `local_ip`, or, as with Teleport, `local_ip:listen_port` if `listen_port` is
/// not 0. Without a `local_ip` the peer does not listen.
///
/// # Examples
///
/// ```
/// use std::time::Duration;
/// use epicycle::rpc::{Config, Peer};
///
/// let config: Config = serde_json::from_str(
///     r#"{"default_session_age": "1h", "slow_comet_duration": "500ms", "count_time": true}"#,
/// )?;
/// assert_eq!(config.default_session_age, Duration::from_secs(3600));
///
/// let peer = Peer::builder().config(&config)?.listen("tcp://127.0.0.1:0").start()?;
///
/// let error = serde_json::from_str::<Config>(r#"{"listen_port": 99999}"#).unwrap_err();
/// assert!(error.to_string().starts_with("`listen_port` is 99999; use a whole number from 0 to 65535"));
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Config {
    /// The kind of socket to listen on.
    pub network: Network,
    /// The address to listen on and to dial from, or the path of a Unix socket. Empty: every address.
    pub local_ip: String,
    /// The port to listen on. 0: the peer does not listen.
    pub listen_port: u16,
    /// The timeout of dials that set none. Zero: that of [`Connect`](crate::Connect).
    #[serde(serialize_with = "as_go")]
    pub default_dial_timeout: Duration,
    /// The attempts to connect again after a session's connection broke. Below 0: without end.
    pub redial_times: i32,
    /// The name of the codec of bodies for which no other is set.
    pub default_body_codec: String,
    /// The maximum age of sessions. Zero: none.
    #[serde(serialize_with = "as_go")]
    pub default_session_age: Duration,
    /// The time for a handler that replies later. Zero: that of its caller.
    #[serde(serialize_with = "as_go")]
    pub default_context_age: Duration,
    /// The time from which on calls are logged as slow. Zero: none are.
    #[serde(serialize_with = "as_go")]
    pub slow_comet_duration: Duration,
    /// True if metadata and bodies are logged.
    pub print_detail: bool,
    /// True if the times of calls are measured.
    pub count_time: bool,
    /// The most bytes of a received message. 0: the default.
    pub message_size_limit: usize,
    /// True if silent TCP connections are probed.
    pub keepalive: bool,
    /// The time of silence before a probe, and between probes, in whole seconds.
    #[serde(serialize_with = "as_go")]
    pub keepalive_period: Duration,
    /// True if small writes are sent at once.
    pub nodelay: bool,
    /// The size of the kernel's receive buffer in bytes. 0: the system's.
    pub read_buffer: usize,
    /// The size of the kernel's send buffer in bytes. 0: the system's.
    pub write_buffer: usize,
}

/// The kind of socket that a peer listens on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Network {
    /// TCP.
    #[default]
    Tcp,
    /// TCP over IPv4 only.
    Tcp4,
    /// TCP over IPv6 only.
    Tcp6,
    /// A Unix stream socket.
    Unix,
    /// A Unix socket of records.
    UnixPacket,
}

const KEYS: [&str; 17] = [
    "network",
    "local_ip",
    "listen_port",
    "default_dial_timeout",
    "redial_times",
    "default_body_codec",
    "default_session_age",
    "default_context_age",
    "slow_comet_duration",
    "print_detail",
    "count_time",
    "message_size_limit",
    "keepalive",
    "keepalive_period",
    "nodelay",
    "read_buffer",
    "write_buffer",
];

/// The delays between attempts to connect again.
const REDIAL_FIRST: Duration = Duration::from_millis(100);
const REDIAL_LONGEST: Duration = Duration::from_secs(10);

/// The unanswered probes after which a connection is closed, as Go has it.
const KEEPALIVE_PROBES: u32 = 9;

impl Default for Config {
    fn default() -> Self {
        Self {
            network: Network::Tcp,
            local_ip: String::new(),
            listen_port: 0,
            default_dial_timeout: Duration::ZERO,
            redial_times: 0,
            default_body_codec: "json".to_owned(),
            default_session_age: Duration::ZERO,
            default_context_age: Duration::ZERO,
            slow_comet_duration: Duration::ZERO,
            print_detail: false,
            count_time: false,
            message_size_limit: 0,
            keepalive: false,
            keepalive_period: Duration::from_secs(15),
            nodelay: true,
            read_buffer: 0,
            write_buffer: 0,
        }
    }
}

impl Config {
    /// Returns the address to listen on. `None` if the peer does not listen.
    pub fn endpoint(&self) -> Option<Endpoint> {
        let family = match self.network {
            Network::Tcp => Family::Any,
            Network::Tcp4 => Family::V4,
            Network::Tcp6 => Family::V6,
            Network::Unix => return Some(Endpoint::Unix(self.path()?.into())),
            Network::UnixPacket => return Some(Endpoint::UnixPacket(self.path()?.into())),
        };
        (self.listen_port != 0).then(|| Endpoint::Tcp {
            host: self.local_ip.clone(),
            port: self.listen_port,
            family,
        })
    }

    /// Returns the path of the Unix socket.
    fn path(&self) -> Option<String> {
        match self.listen_port {
            _ if self.local_ip.is_empty() => None,
            0 => Some(self.local_ip.clone()),
            port => Some(format!("{}:{port}", self.local_ip)),
        }
    }

    /// Sets the value of a key. Returns what would be allowed if it is another.
    fn set(&mut self, key: &str, value: &Value) -> Result<(), String> {
        match key {
            "network" => self.network = value.network()?,
            "local_ip" => self.local_ip = value.text()?,
            "listen_port" => self.listen_port = value.whole(0..=u16::MAX.into())?,
            "default_dial_timeout" => self.default_dial_timeout = value.duration()?,
            "redial_times" => self.redial_times = value.whole(i32::MIN.into()..=i32::MAX.into())?,
            "default_body_codec" => self.default_body_codec = value.text()?,
            "default_session_age" => self.default_session_age = value.duration()?,
            "default_context_age" => self.default_context_age = value.duration()?,
            "slow_comet_duration" => self.slow_comet_duration = value.duration()?,
            "print_detail" => self.print_detail = value.flag()?,
            "count_time" => self.count_time = value.flag()?,
            "message_size_limit" => self.message_size_limit = value.whole(BYTES)?,
            "keepalive" => self.keepalive = value.flag()?,
            "keepalive_period" => self.keepalive_period = value.duration()?,
            "nodelay" => self.nodelay = value.flag()?,
            "read_buffer" => self.read_buffer = value.whole(BYTES)?,
            "write_buffer" => self.write_buffer = value.whole(BYTES)?,
            other => unreachable!("{other} is not in KEYS"),
        }
        Ok(())
    }
}

/// Sizes that the kernel takes.
const BYTES: RangeInclusive<i128> = 0..=i32::MAX as i128;

impl PeerBuilder {
    /// Sets the options that a file has. Options that are set later replace them. The codecs must be set before.
    ///
    /// # Errors
    ///
    /// Returns an [`Error`] that names the key, if its value cannot be used.
    pub fn config(mut self, config: &Config) -> Result<Self, Error> {
        let bad = |name, problem| Err(Error::Option { name, problem });
        if let Some(endpoint) = config.endpoint() {
            self = self.listen(endpoint);
        }
        let is_tcp = !matches!(config.network, Network::Unix | Network::UnixPacket);
        if is_tcp && !config.local_ip.is_empty() {
            let Ok(ip) = config.local_ip.parse::<IpAddr>() else {
                let problem = format!("{:?} is no IP address", config.local_ip);
                return bad("local_ip", problem);
            };
            if !ip.is_unspecified() {
                self = self.dial_from(ip);
            }
        }
        let Some(codec) = self.codec_by_name(&config.default_body_codec) else {
            let (name, known) = (&config.default_body_codec, self.codec_names().join(", "));
            let problem = format!("there is no codec {name:?}; use one of {known}");
            return bad("default_body_codec", problem);
        };
        self = self.body_codec(codec);
        let redial = Reconnect::new(REDIAL_FIRST, REDIAL_LONGEST);
        self = self.redial(match u32::try_from(config.redial_times) {
            Ok(0) => None,
            Ok(times) => Some(redial.limit(times)),
            Err(_) => Some(redial),
        });
        let set = |time: Duration| Some(time).filter(|time| !time.is_zero());
        if let Some(timeout) = set(config.default_dial_timeout) {
            self = self.dial_timeout(timeout);
        }
        self = self
            .session_age(set(config.default_session_age))
            .handle_timeout(set(config.default_context_age));
        if let Some(slow) = set(config.slow_comet_duration) {
            self = self.slow(slow);
        }
        if config.print_detail {
            self = self.log_details();
        }
        if config.count_time {
            self = self.count_time();
        }
        if config.message_size_limit != 0 {
            self = self.message_limit(config.message_size_limit);
        }
        let period = config.keepalive_period;
        if config.keepalive && (period.subsec_nanos() != 0 || !PERIODS.contains(&period.as_secs()))
        {
            let period = go_duration::format(period);
            let problem = format!("it is {period}; use whole seconds from 1s to 9h6m7s");
            return bad("keepalive_period", problem);
        }
        Ok(self.server(|mut server| {
            server = server.nodelay(config.nodelay);
            if config.keepalive {
                server = server.keepalive(period, period, KEEPALIVE_PROBES);
            }
            if config.read_buffer != 0 {
                server = server.recv_buffer(config.read_buffer);
            }
            if config.write_buffer != 0 {
                server = server.send_buffer(config.write_buffer);
            }
            server
        }))
    }
}

/// The seconds between two probes that Linux takes.
const PERIODS: RangeInclusive<u64> = 1..=32_767;

fn as_go<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&go_duration::format(*duration))
}

impl<'de> Deserialize<'de> for Config {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ConfigVisitor)
    }
}

struct ConfigVisitor;

impl<'de> Visitor<'de> for ConfigVisitor {
    type Value = Config;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the options of a peer by their keys")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Config, A::Error> {
        let (mut config, mut seen) = (Config::default(), Vec::new());
        // Formats add the place to errors that arise within a key or a value.
        while let Some(key) = map.next_key_seed(KnownKey)? {
            map.next_value_seed(ValueOf {
                key,
                config: &mut config,
                seen: &mut seen,
            })?;
        }
        Ok(config)
    }
}

/// Reads one of the keys.
struct KnownKey;

impl<'de> DeserializeSeed<'de> for KnownKey {
    type Value = &'static str;

    fn deserialize<D: Deserializer<'de>>(self, key: D) -> Result<&'static str, D::Error> {
        let key = String::deserialize(key)?;
        let known = KEYS.into_iter().find(|known| *known == key);
        known.ok_or_else(|| {
            let keys = KEYS.join(", ");
            de::Error::custom(format!("there is no key `{key}`; the keys are {keys}"))
        })
    }
}

/// Reads the value of a key.
struct ValueOf<'a> {
    key: &'static str,
    config: &'a mut Config,
    /// The keys that have a value.
    seen: &'a mut Vec<&'static str>,
}

impl<'de> DeserializeSeed<'de> for ValueOf<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, value: D) -> Result<(), D::Error> {
        let key = self.key;
        let named = |problem: &dyn fmt::Display| de::Error::custom(format!("`{key}`: {problem}"));
        let value = Value::deserialize(value).map_err(|error| named(&error))?;
        if let Value::Null = value {
            return Ok(());
        }
        (self.config.set(key, &value))
            .map_err(|allowed| de::Error::custom(format!("`{key}` is {value}; {allowed}")))?;
        if self.seen.contains(&key) {
            return Err(named(&"it is given twice"));
        }
        self.seen.push(key);
        Ok(())
    }
}

/// A value as the file has it. Formats such as INI have texts only.
enum Value {
    Text(String),
    Whole(i128),
    Decimal(f64),
    Flag(bool),
    Null,
}

impl Value {
    fn text(&self) -> Result<String, String> {
        match self {
            Value::Text(text) => Ok(text.clone()),
            _ => Err("use a text".to_owned()),
        }
    }

    fn network(&self) -> Result<Network, String> {
        Ok(match self {
            Value::Text(text) => match &**text {
                "" | "tcp" => Network::Tcp,
                "tcp4" => Network::Tcp4,
                "tcp6" => Network::Tcp6,
                "unix" => Network::Unix,
                "unixpacket" => Network::UnixPacket,
                _ => return Err("use tcp, tcp4, tcp6, unix or unixpacket".to_owned()),
            },
            _ => return Err("use tcp, tcp4, tcp6, unix or unixpacket".to_owned()),
        })
    }

    fn whole<T: TryFrom<i128>>(&self, range: RangeInclusive<i128>) -> Result<T, String> {
        let number = match self {
            Value::Whole(number) => Some(*number),
            Value::Text(text) => text.parse().ok(),
            _ => None,
        };
        number
            .filter(|number| range.contains(number))
            .and_then(|number| T::try_from(number).ok())
            .ok_or_else(|| {
                format!(
                    "use a whole number from {} to {}",
                    range.start(),
                    range.end()
                )
            })
    }

    fn flag(&self) -> Result<bool, String> {
        match self {
            Value::Flag(flag) => Ok(*flag),
            Value::Text(text) if text == "true" => Ok(true),
            Value::Text(text) if text == "false" => Ok(false),
            _ => Err("use true or false".to_owned()),
        }
    }

    fn duration(&self) -> Result<Duration, String> {
        let duration = match self {
            Value::Text(text) => go_duration::parse(text),
            Value::Whole(0) => Some(Duration::ZERO),
            _ => None,
        };
        duration.ok_or_else(|| {
            "use a number with a unit (ns, µs, ms, s, m or h), or several, as in 1m30s".to_owned()
        })
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Value::Text(text) => write!(f, "{text:?}"),
            Value::Whole(number) => write!(f, "{number}"),
            Value::Decimal(number) => write!(f, "{number}"),
            Value::Flag(flag) => write!(f, "{flag}"),
            Value::Null => f.write_str("null"),
        }
    }
}

impl<'de> Deserialize<'de> for Value {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ValueVisitor)
    }
}

struct ValueVisitor;

impl Visitor<'_> for ValueVisitor {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text, a number, true or false")
    }

    fn visit_str<E>(self, text: &str) -> Result<Value, E> {
        Ok(Value::Text(text.to_owned()))
    }

    fn visit_i64<E>(self, number: i64) -> Result<Value, E> {
        Ok(Value::Whole(number.into()))
    }

    fn visit_u64<E>(self, number: u64) -> Result<Value, E> {
        Ok(Value::Whole(number.into()))
    }

    fn visit_f64<E>(self, number: f64) -> Result<Value, E> {
        Ok(Value::Decimal(number))
    }

    fn visit_bool<E>(self, flag: bool) -> Result<Value, E> {
        Ok(Value::Flag(flag))
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }
}
