use std::time::Duration;

use super::{ClientListener, GateBuilder, HeartbeatMode, ResumeOptions};
use crate::cluster::Error;
use crate::cluster::config::{ClientsConfig, Config, ResumeConfig};
use crate::cluster::link::LaneOptions;
#[cfg(feature = "kcp")]
use crate::kcp::KcpOptions;

/// The clients of a listener that `maxConnNum` does not bound.
const MAX_CONNECTIONS: usize = 5000;

impl GateBuilder {
    /// Sets what a configuration has for gates: `cluster.gate`, `cluster.gate.resume`, `packet`, and a listener for each of `network.tcp.server`,
    /// `network.ws.server` and `network.kcp.server` that has an `addr`. Call it before the methods that shall have precedence.
    ///
    /// The gate has one heartbeat and one limit of clients: listeners must agree about the first, and the second is their sum. The
    /// links are at every interface if the configuration says no host, and need [`expose`](Self::expose) then.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] if listeners do not agree, or if a certificate cannot be used.
    pub fn config(mut self, config: &Config) -> Result<Self, Error> {
        let gate = &config.gate;
        self.own.configure(gate);
        if let Some(addr) = &gate.addr {
            self = self.link(format!("tcp://{addr}"));
        }
        if let Some(policy) = gate.dispatch {
            self = self.dispatch(policy);
        }
        if let Some(resume) = resume_options(&config.resume) {
            self = self.resume(resume);
        }
        self = self.lanes(LaneOptions::from_config(gate));
        self = self
            .metadata(gate.metadata.clone())
            .packet(config.packet_options()?);

        let all = [
            ("tcp", &config.tcp),
            ("ws", &config.ws),
            ("kcp", &config.kcp),
        ];
        let mut listening = Vec::new();
        for (scheme, clients) in all {
            if let Some(addr) = &clients.addr {
                self = self.listen(listener(config, scheme, addr, clients)?);
                listening.push((scheme, clients));
            }
        }
        if listening.is_empty() {
            return Ok(self);
        }
        let max = listening
            .iter()
            .map(|(_, clients)| clients.max_connections.unwrap_or(MAX_CONNECTIONS));
        self = self.max_connections(max.fold(0, usize::saturating_add));
        let interval = agreed(config, "heartbeatInterval", &listening, |clients| {
            clients
                .heartbeat_interval
                .unwrap_or(Duration::from_secs(10))
        })?;
        let ticks = agreed(config, "heartbeatMechanism", &listening, |clients| {
            clients.heartbeat_ticks.unwrap_or(false)
        })?;
        let mode = match ticks {
            true => HeartbeatMode::Tick,
            false => HeartbeatMode::Respond,
        };
        let authorize = agreed(config, "authorizeTimeout", &listening, |clients| {
            clients.authorize_timeout.unwrap_or_default()
        })?;
        Ok(self.heartbeat(mode, interval).authorize_timeout(authorize))
    }
}

/// Returns `None` if nothing is configured: resume is off then.
fn resume_options(config: &ResumeConfig) -> Option<ResumeOptions> {
    if *config == ResumeConfig::default() {
        return None;
    }
    let mut options = ResumeOptions::new();
    if let Some(window) = config.window {
        options = options.window(window);
    }
    if let Some(buffer) = config.buffer {
        options = options.buffer(buffer);
    }
    if let Some(lifetime) = config.lifetime {
        options = options.lifetime(lifetime);
    }
    if let Some(users) = config.max_users {
        options = options.max_users(users);
    }
    if let Some(bytes) = config.max_bytes {
        options = options.max_bytes(bytes);
    }
    Some(options)
}

/// Returns what all listeners have in common.
fn agreed<T: PartialEq>(
    config: &Config,
    key: &str,
    listening: &[(&str, &ClientsConfig)],
    read: impl Fn(&ClientsConfig) -> T,
) -> Result<T, Error> {
    let (first, clients) = listening[0];
    let value = read(clients);
    let Some((other, _)) = listening.iter().find(|(_, clients)| read(clients) != value) else {
        return Ok(value);
    };
    // Of two, one may be the default, which is written nowhere.
    let mut paths = [first, other].map(|scheme| format!("network.{scheme}.server.{key}"));
    if config.place(&paths[0]).is_empty() {
        paths.reverse();
    }
    let problem = format!(
        "it differs from that of {}, and a gate has one; write the same into each, or start two gates",
        paths[1]
    );
    Err(config.fault(&paths[0], &problem))
}

fn listener(
    config: &Config,
    scheme: &str,
    addr: &str,
    clients: &ClientsConfig,
) -> Result<ClientListener, Error> {
    let table = format!("network.{scheme}.server");
    let path = match (scheme, &clients.path) {
        ("ws", Some(path)) => path.as_str(),
        _ => "",
    };
    let listener = ClientListener::at(&format!("{scheme}://{addr}{path}"));
    let listener = match &clients.origins {
        Some(origins) if scheme == "ws" && !origins.iter().any(|origin| origin == "*") => {
            if origins.is_empty() {
                let problem = "an empty list admits nobody; leave it out, or write [\"*\"] for all";
                return Err(config.fault(&format!("{table}.origins"), problem));
            }
            listener.origins(origins)
        }
        _ => listener,
    };
    #[cfg(feature = "kcp")]
    let listener = match scheme {
        "kcp" => listener.kcp(kcp_options(config, clients)?),
        _ => listener,
    };
    #[cfg(feature = "tls")]
    let listener = match config.tls_server(&table, &clients.certificate)? {
        Some(tls) => listener.tls(&tls),
        None => listener,
    };
    #[cfg(not(feature = "tls"))]
    config.check_no_tls(&table, &clients.certificate)?;
    Ok(listener)
}

#[cfg(feature = "kcp")]
fn kcp_options(config: &Config, clients: &ClientsConfig) -> Result<KcpOptions, Error> {
    let mut options = KcpOptions::new().ack_no_delay(clients.ack_no_delay.unwrap_or(false));
    if let Some(mtu) = clients.mtu {
        options = options.mtu(mtu);
    }
    if let Some([on, interval, resend, alone]) = clients.no_delay {
        options = options
            .no_delay(on != 0)
            .interval(Duration::from_millis(interval.into()))
            .fast_resend(resend.into())
            .congestion_control(alone == 0);
    }
    if let Some([send, receive]) = clients.window_size {
        options = options.windows(send, receive);
    }
    options.check().map_err(|problem| {
        let key = match problem.split(':').next() {
            Some("interval") => "noDelay",
            Some("windows") => "windowSize",
            _ => "mtu",
        };
        config.fault(&format!("network.kcp.server.{key}"), &problem)
    })?;
    Ok(options)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn resume_is_off_until_something_of_it_is_configured() {
        assert_eq!(resume_options(&ResumeConfig::default()), None);
        let some = ResumeConfig {
            window: Some(Duration::from_secs(60)),
            ..ResumeConfig::default()
        };
        let options = ResumeOptions::new().window(Duration::from_secs(60));
        assert_eq!(resume_options(&some), Some(options));
        let all = ResumeConfig {
            buffer: Some(1000),
            lifetime: Some(Duration::from_secs(3600)),
            max_users: Some(5),
            max_bytes: Some(9000),
            ..some
        };
        let options = options.buffer(1000).lifetime(Duration::from_secs(3600));
        let options = options.max_users(5).max_bytes(9000);
        assert_eq!(resume_options(&all), Some(options));
    }
}
