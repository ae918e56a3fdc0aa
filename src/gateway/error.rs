use super::config::ConfigError;
use super::settings::Problem;
use crate::error::{Error, error_messages};

/// The reason why a gateway does not start, or does not take new settings.
#[non_exhaustive]
pub enum GatewayError {
    /// The configuration file cannot be used.
    Config(ConfigError),
    /// These settings cannot work. There is at least one.
    Settings(Vec<Problem>),
    /// The engine could not start: an address that cannot be bound, for example.
    Start(Error),
}

impl From<Error> for GatewayError {
    fn from(error: Error) -> Self {
        GatewayError::Start(error)
    }
}

fn list(problems: &[Problem]) -> String {
    let problems: Vec<String> = problems.iter().map(ToString::to_string).collect();
    problems.join("; ")
}

error_messages! {
    GatewayError {
        GatewayError::Config(error) => "{error}",
        GatewayError::Settings(problems) => "{}" (list(problems)),
        GatewayError::Start(error) => "{error}",
    }
    causes {
        GatewayError::Config(error) => error,
        GatewayError::Start(error) => error,
    }
}
