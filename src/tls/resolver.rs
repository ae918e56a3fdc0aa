//! The choice of a server's certificate, by the name that the client asked for.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::RwLock;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::identity::Identity;

/// The identities of a server. They may be replaced while it runs.
pub(super) struct Resolver {
    table: RwLock<Arc<Table>>,
}

/// Identities by the names in their certificates.
struct Table {
    all: Vec<Identity>,
    by_name: HashMap<String, Vec<Arc<CertifiedKey>>>,
}

thread_local! {
    /// The server name in the last ClientHello on this thread. Rustls passes it only to the resolver: its unbuffered
    /// connections have no method for it.
    static REQUESTED_NAME: RefCell<Option<Box<str>>> = const { RefCell::new(None) };
}

/// Takes the server name from the last ClientHello that was processed on this thread.
pub(super) fn take_requested_name() -> Option<Box<str>> {
    REQUESTED_NAME.take()
}

impl Resolver {
    pub(super) fn new(identities: Vec<Identity>) -> Self {
        Self {
            table: RwLock::new(Arc::new(Table::new(identities))),
        }
    }

    pub(super) fn replace(&self, identities: Vec<Identity>) {
        *self.table.write() = Arc::new(Table::new(identities));
    }

    #[cfg(feature = "gateway")]
    pub(super) fn all(&self) -> Vec<Identity> {
        self.table.read().all.clone()
    }

    pub(super) fn add(&self, identity: Identity) {
        let mut table = self.table.write();
        let mut all = table.all.clone();
        all.push(identity);
        *table = Arc::new(Table::new(all));
    }
}

impl Table {
    fn new(all: Vec<Identity>) -> Self {
        let mut by_name: HashMap<String, Vec<Arc<CertifiedKey>>> = HashMap::new();
        for identity in &all {
            for name in identity.dns_names() {
                let keys = by_name.entry(name.clone()).or_default();
                keys.push(identity.key.clone());
            }
        }
        Self { all, by_name }
    }

    /// Returns an identity for `name`, preferably one that the client can verify. Returns the first identity if none
    /// matches.
    fn pick(
        &self,
        name: Option<&str>,
        suits: impl Fn(&CertifiedKey) -> bool,
    ) -> Option<Arc<CertifiedKey>> {
        let named = name.and_then(|name| self.named(name));
        let keys = named.map_or(&[][..], Vec::as_slice);
        keys.iter()
            .find(|key| suits(key))
            .or_else(|| keys.first())
            .or_else(|| self.all.first().map(|identity| &identity.key))
            .cloned()
    }

    fn named(&self, name: &str) -> Option<&Vec<Arc<CertifiedKey>>> {
        self.by_name.get(name).or_else(|| {
            // A wildcard matches exactly one label.
            let (_, domain) = name.split_once('.')?;
            self.by_name.get(&format!("*.{domain}"))
        })
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(str::to_ascii_lowercase);
        let table = self.table.read().clone();
        let schemes = hello.signature_schemes();
        let key = table.pick(name.as_deref(), |key| {
            key.key.choose_scheme(schemes).is_some()
        });
        REQUESTED_NAME.set(name.map(Into::into));
        key
    }
}

impl std::fmt::Debug for Resolver {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(&self.table.read().all).finish()
    }
}
