//! Records of the registry and messages of the event bus.
#![no_main]

use epicycle::cluster::eventbus::Message;
use epicycle::cluster::registry::Instance;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    if let Ok(mut instance) = Instance::from_json(data) {
        let json = instance.to_json().expect("it was read");
        let mut again = Instance::from_json(json.as_bytes()).expect("it was written");
        // Unknown fields may have numbers that are not exact.
        assert!(again.other.keys().eq(instance.other.keys()));
        again.other.clear();
        instance.other.clear();
        assert_eq!(again, instance);
    }
    if let Ok(message) = Message::from_json(data) {
        let json = message.to_json().expect("it was read");
        let again = Message::from_json(json.as_bytes()).expect("it was written");
        assert_eq!(again, message);
    }
});
