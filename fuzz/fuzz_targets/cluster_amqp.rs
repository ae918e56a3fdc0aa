//! Frames that a RabbitMQ server sends to a subscriber, and the messages that they make.
#![no_main]

use epicycle::internals::amqp_messages;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|data: &[u8]| {
    let messages = amqp_messages(data);
    let bytes: usize = messages.iter().map(Vec::len).sum();
    assert!(bytes <= data.len(), "{bytes} of {}", data.len());
    // Bytes behind the end of a message do not change it.
    let more = amqp_messages(&[data, b"\x08\0\0\0\0\0\0\xce"].concat());
    assert!(more.starts_with(&messages));
});
