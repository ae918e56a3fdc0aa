//! Connections through proxies: SOCKS5 (RFC 1928, RFC 1929) and the `CONNECT` of HTTP (RFC 9110, section 9.3.6), as a client.
//!
//! A [`Via`] makes a [`Connect`] to a target that goes by way of a proxy. It is used as any other one: the handler's
//! [`on_open`](crate::EventHandler::on_open) is called once the proxy has connected the target, and TLS is spoken with the target. The
//! proxy looks up the target's name. The timeout covers the connect to the proxy, the negotiation with it, and TLS.
//!
//! ```
//! use std::time::Duration;
//! use epicycle::gateway::dial::Via;
//!
//! let via: Via = "socks5://alice:secret@127.0.0.1:1080".parse()?;
//! let connect = via.connect("example.org:443")?.timeout(Duration::from_secs(5)).token(7);
//! assert_eq!(via.to_string(), "socks5://127.0.0.1:1080");
//! # let _ = connect;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod error;
mod http_connect;
mod socks5;

use std::error::Error as StdError;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use percent_encoding::percent_decode_str;

pub use self::error::{Refused, ViaError, ViaFailure};
use self::http_connect::HttpConnect;
use self::socks5::Socks5;
use super::egress::{Guard, Host, Target, TargetError, Way};
use crate::addr::{Endpoint, Family};
use crate::engine::connect::Connect;
use crate::engine::connect::negotiation::Negotiation;

/// A proxy by way of which targets are reached: `socks5://[USER:PASSWORD@]HOST:PORT` or `http://[USER:PASSWORD@]HOST:PORT`.
///
/// Name and password may have escapes (`%40` for `@`). They are shown in no text.
#[derive(Clone, PartialEq, Eq)]
pub struct Via(Arc<Proxy>);

#[derive(PartialEq, Eq)]
struct Proxy {
    protocol: Protocol,
    host: String,
    port: u16,
    user: Option<User>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Protocol {
    Socks5,
    Http,
}

#[derive(PartialEq, Eq)]
struct User {
    name: Vec<u8>,
    password: Vec<u8>,
}

impl Via {
    /// Returns a connect to a target by way of the proxy. `target` is `HOST:PORT`; a name is looked up by the proxy.
    ///
    /// Of the options of a [`Connect`], [`allow`](Connect::allow) is about the addresses of the proxy, and
    /// [`proxy_protocol`](Connect::proxy_protocol) sends its header to the proxy.
    ///
    /// # Errors
    ///
    /// [`TargetError`] if that is no target.
    pub fn connect(&self, target: &str) -> Result<Connect, TargetError> {
        Ok(self.connect_to(&target.parse()?))
    }

    /// Returns a connect to a target by way of the proxy.
    pub fn connect_to(&self, target: &Target) -> Connect {
        let endpoint = Endpoint::Tcp {
            host: self.0.host.clone(),
            port: self.0.port,
            family: Family::Any,
        };
        let (proxy, asked) = (self.clone(), target.clone());
        let host = match &target.host {
            Host::Ip(ip) => ip.to_string(),
            Host::Name(name) => name.to_string(),
        };
        let connect = Connect::to(endpoint);
        match self.0.protocol {
            Protocol::Socks5 => {
                connect.negotiate(&host, move || Asking::<Socks5>::new(&proxy, &asked))
            }
            Protocol::Http => {
                connect.negotiate(&host, move || Asking::<HttpConnect>::new(&proxy, &asked))
            }
        }
    }

    /// Returns the user's name and password.
    fn user(&self) -> Option<(&[u8], &[u8])> {
        let user = self.0.user.as_ref()?;
        Some((&user.name, &user.password))
    }

    /// Returns the credentials for `Proxy-Authorization` (RFC 7617).
    fn basic(&self) -> Option<String> {
        let (name, password) = self.user()?;
        Some(STANDARD.encode([name, b":", password].concat()))
    }
}

/// The client's side of the protocol by which a proxy is asked for a target.
trait Dialogue: Default + Send {
    /// Takes received bytes and appends what is to be sent, as [`Negotiation::advance`] does.
    fn take(
        &mut self,
        via: &Via,
        target: &Target,
        received: &[u8],
        send: &mut Vec<u8>,
    ) -> Result<Option<usize>, Refused>;
}

/// A negotiation with a proxy.
struct Asking<D> {
    via: Via,
    target: Target,
    dialogue: D,
}

impl<D: Dialogue> Asking<D> {
    fn new(via: &Via, target: &Target) -> Self {
        Self {
            via: via.clone(),
            target: target.clone(),
            dialogue: D::default(),
        }
    }

    fn failure(&self, refused: Refused) -> Box<dyn StdError + Send + Sync> {
        let (via, target) = (self.via.clone(), self.target.clone());
        Box::new(ViaFailure {
            via,
            target,
            refused,
        })
    }
}

impl<D: Dialogue> Negotiation for Asking<D> {
    fn advance(
        &mut self,
        received: &[u8],
        send: &mut Vec<u8>,
    ) -> Result<Option<usize>, Box<dyn StdError + Send + Sync>> {
        let taken = (self.dialogue).take(&self.via, &self.target, received, send);
        taken.map_err(|refused| self.failure(refused))
    }

    fn cut(&self) -> Box<dyn StdError + Send + Sync> {
        self.failure(Refused::Cut)
    }
}

/// Returns the connect to a target: by way of a proxy, or to an address that the policy allows. A proxy looks a name up, so the policy
/// sees none of its addresses then.
pub(super) fn connect(guard: &Arc<Guard>, target: &Target, way: Way, via: Option<&Via>) -> Connect {
    match via {
        Some(via) => via.connect_to(target),
        None => guard.connect(target, way),
    }
}

/// Returns the reason why a proxy has not connected a target, if that is why a connect failed.
pub(super) fn refusal(error: &(dyn StdError + Send + Sync + 'static)) -> Option<Refused> {
    let failure: &ViaFailure = error.downcast_ref()?;
    Some(failure.refused)
}

impl FromStr for Via {
    type Err = ViaError;

    fn from_str(text: &str) -> Result<Self, ViaError> {
        let (scheme, rest) = text.split_once("://").ok_or(ViaError::Scheme)?;
        let protocol = match scheme.to_ascii_lowercase().as_str() {
            // Names are looked up by the proxy in any case.
            "socks5" | "socks5h" => Protocol::Socks5,
            "http" => Protocol::Http,
            _ => return Err(ViaError::Scheme),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (user, authority) = match rest.rsplit_once('@') {
            Some((user, authority)) => (Some(User::parse(user, protocol)?), authority),
            None => (None, rest),
        };
        let target: Target = authority.parse().map_err(ViaError::Proxy)?;
        let host = match target.host {
            Host::Ip(ip) => ip.to_string(),
            Host::Name(name) => name.into(),
        };
        Ok(Self(Arc::new(Proxy {
            protocol,
            host,
            port: target.port,
            user,
        })))
    }
}

impl User {
    fn parse(text: &str, protocol: Protocol) -> Result<Self, ViaError> {
        let (name, password) = text.split_once(':').ok_or(ViaError::User)?;
        let decode = |text: &str| percent_decode_str(text).collect::<Vec<u8>>();
        let user = Self {
            name: decode(name),
            password: decode(password),
        };
        let is_right = match protocol {
            // Their lengths are bytes, and they are not empty (RFC 1929, section 2).
            Protocol::Socks5 => {
                (1..=255).contains(&user.name.len()) && (1..=255).contains(&user.password.len())
            }
            Protocol::Http => !user.name.is_empty() && !user.name.contains(&b':'),
        };
        match is_right && user.name.len() + user.password.len() <= 2048 {
            true => Ok(user),
            false => Err(ViaError::User),
        }
    }
}

impl fmt::Display for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Proxy {
            protocol,
            host,
            port,
            ..
        } = &*self.0;
        let scheme = match protocol {
            Protocol::Socks5 => "socks5",
            Protocol::Http => "http",
        };
        match host.contains(':') {
            true => write!(f, "{scheme}://[{host}]:{port}"),
            false => write!(f, "{scheme}://{host}:{port}"),
        }
    }
}

impl fmt::Debug for Via {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Via({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proxy_has_a_scheme_a_host_a_port_and_maybe_a_user() {
        for (text, shown) in [
            ("socks5://127.0.0.1:1080", "socks5://127.0.0.1:1080"),
            (
                "SOCKS5h://Proxy.example:1080/",
                "socks5://proxy.example:1080",
            ),
            ("http://[::1]:3128", "http://[::1]:3128"),
            ("http://a%40b:c%3Ad@proxy:3128", "http://proxy:3128"),
        ] {
            let via: Via = text.parse().expect(text);
            assert_eq!(via.to_string(), shown);
            assert_eq!(format!("{via:?}"), format!("Via({shown})"));
        }
        let via: Via = "http://a%40b:c%3Ad@proxy:3128".parse().expect("is one");
        assert_eq!(via.user(), Some((&b"a@b"[..], &b"c:d"[..])));
        assert_eq!(via.basic().as_deref(), Some("YUBiOmM6ZA=="));
    }

    #[test]
    fn a_text_that_is_no_proxy_is_refused() {
        for text in [
            "127.0.0.1:1080",
            "https://proxy:443",
            "socks4://proxy:1080",
            "socks5://proxy",
            "socks5://proxy:0",
            "socks5://127.1:1080",
            "socks5://proxy:1080/path",
            "socks5://user@proxy:1080",
            "socks5://:@proxy:1080",
            "http://:x@proxy:1",
            &format!("socks5://{}:x@proxy:1080", "u".repeat(256)),
            &format!("http://u:{}@proxy:1080", "p".repeat(2049)),
        ] {
            let error = text.parse::<Via>().expect_err(text).to_string();
            assert!(!error.contains("ppp") && !error.contains("uuu"), "{error}");
        }
    }
}
