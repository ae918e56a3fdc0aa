use super::ClientBuilder;
use crate::cluster::Error;
use crate::cluster::config::Config;

impl ClientBuilder {
    /// Sets what a configuration has for clients: `cluster.client.callTimeout` and `dialTimeout`, and `packet`. Call it before the
    /// methods that shall have precedence.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] if the format of packets cannot be.
    pub fn config(mut self, config: &Config) -> Result<Self, Error> {
        if let Some(timeout) = config.client.call_timeout {
            self = self.call_timeout(timeout);
        }
        if let Some(timeout) = config.client.dial_timeout {
            self = self.connect_timeout(timeout);
        }
        Ok(self.packets(config.packet_options()?))
    }
}
