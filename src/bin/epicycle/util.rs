//! The log and the values of flags, for all commands.

use std::error::Error;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, SystemTime};

use epicycle::tls::{Roots, TlsClient};

/// The longest period that a flag takes.
const DAY: Duration = Duration::from_secs(24 * 60 * 60);

/// Logs warnings, received signals, and changes of a gateway. RUST_LOG=debug shows the work of the engine.
pub(crate) fn log_to_stderr() {
    let env = env_logger::Env::default()
        .default_filter_or("warn,epicycle::signals=info,epicycle::gateway=info");
    env_logger::Builder::from_env(env)
        .format(|out, record| {
            let time = humantime::format_rfc3339_millis(SystemTime::now());
            let (level, target, text) = (record.level(), record.target(), record.args());
            writeln!(out, "{time} {level:5} {target}: {text}")
        })
        .init();
}

/// Parses a period such as 500ms, 1s or 2m: longer than zero, and at most a day.
pub(crate) fn period(text: &str) -> Result<Duration, String> {
    match period_or_zero(text) {
        Ok(Duration::ZERO) => {
            Err("the period must be longer than zero; write 1s, for example".into())
        }
        period => period,
    }
}

/// Parses a period that may be zero.
pub(crate) fn period_or_zero(text: &str) -> Result<Duration, String> {
    let period = humantime::parse_duration(text)
        .map_err(|error| format!("{error}; write 500ms, 1s or 2m, for example"))?;
    if period > DAY {
        return Err("the period must be at most a day".into());
    }
    Ok(period)
}

/// Returns the TLS of an outbound connection that trusts a file's certificates, or the system's.
pub(crate) fn tls_client(ca: Option<&Path>) -> Result<TlsClient, Box<dyn Error>> {
    let roots = match ca {
        Some(file) => Roots::from_pem_file(file)?,
        None => Roots::native()?,
    };
    Ok(TlsClient::new(&roots)?)
}
