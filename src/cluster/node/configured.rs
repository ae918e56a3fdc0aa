use super::NodeBuilder;
use crate::cluster::Error;
use crate::cluster::config::Config;
use crate::cluster::link::LaneOptions;

impl<T: 'static> NodeBuilder<T> {
    /// Sets what a configuration has for nodes: `cluster.node` and `packet`. Call it before the methods that shall have precedence.
    /// The codec stays JSON if the configuration has none, where due has protobuf.
    ///
    /// The links are at every interface if the configuration says no host, and need [`expose`](Self::expose) then.
    ///
    /// # Errors
    ///
    /// [`Error::InvalidArgument`] if the format of packets cannot be.
    pub fn config(mut self, config: &Config) -> Result<Self, Error> {
        let node = &config.node;
        self.own.configure(node);
        if let Some(addr) = &node.addr {
            self = self.link(format!("tcp://{addr}"));
        }
        if let Some(weight) = node.weight {
            self = self.weight(weight);
        }
        if let Some(codec) = &node.codec {
            self = self.codec(codec.clone());
        }
        self = self.lanes(LaneOptions::from_config(node));
        Ok(self
            .metadata(node.metadata.clone())
            .packet(config.packet_options()?))
    }
}
