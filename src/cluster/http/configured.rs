use super::{Cors, HttpBuilder};
use crate::cluster::Error;
use crate::cluster::config::Config;

/// The path of the description of the routes, as that of due.
const SWAGGER: &str = "/swagger";

impl HttpBuilder {
    /// Sets what a configuration has for HTTP: `http`, and `packet`. Call it before the methods that shall have precedence.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] if the certificate cannot be used.
    pub fn config(mut self, config: &Config) -> Result<Self, Error> {
        let http = &config.http;
        self = self.packet(config.packet_options()?);
        if let Some(addr) = &http.addr {
            self = self.listen(format!("tcp://{addr}"));
        }
        if let Some(bytes) = http.max_body {
            self = self.max_body(bytes as u64);
        }
        if let Some(connections) = http.max_connections {
            self = self.max_connections(connections);
        }
        if http.cors == Some(true) {
            let origins = http.cors_origins.as_deref().unwrap_or_default();
            self = self.cors(
                match origins.is_empty() || origins.iter().any(|one| one == "*") {
                    true => Cors::any(),
                    false => Cors::origins(origins),
                },
            );
        }
        if http.swagger == Some(true) {
            let path = http.swagger_path.as_deref().unwrap_or(SWAGGER);
            let title = http.swagger_title.as_deref().unwrap_or("API");
            self = self.openapi(path, title, "1");
        }
        #[cfg(feature = "tls")]
        if let Some(tls) = config.tls_server("http", &http.certificate)? {
            self = self.tls(&tls);
        }
        #[cfg(not(feature = "tls"))]
        config.check_no_tls("http", &http.certificate)?;
        Ok(self)
    }
}
