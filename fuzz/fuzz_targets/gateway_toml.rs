//! The configuration file of a gateway. Each fault names a line of the file, and a file without a fault has sound settings.
#![no_main]

use std::sync::LazyLock;
use std::{env, fs, path::PathBuf, process};

use epicycle::gateway::{ConfigError, Gateway, GatewayError};
use libfuzzer_sys::fuzz_target;

/// A folder in memory, with a file for each process.
static FILE: LazyLock<PathBuf> = LazyLock::new(|| {
    let memory = PathBuf::from("/dev/shm");
    let parent = if memory.exists() {
        memory
    } else {
        env::temp_dir()
    };
    let folder = parent.join(format!("epicycle-fuzz-{}", process::id()));
    fs::create_dir_all(&folder).expect("a folder");
    folder.join("gateway.toml")
});

fuzz_target!(|data: &[u8]| {
    fs::write(&*FILE, data).expect("is written");
    match Gateway::from_file(&*FILE) {
        Ok(gateway) => {
            let settings = gateway.settings();
            assert!(settings.problems().is_empty());
            assert!(!settings.listeners.is_empty());
            // A file that can be read is explained, or not, but without a panic.
            let _ = gateway.explain("GET http://app.example.org/api/users?id=1");
        }
        Err(GatewayError::Config(ConfigError::Faults(faults))) => {
            assert!(!faults.is_empty() && faults.len() <= 100);
            let lines = data.iter().filter(|byte| **byte == b'\n').count() + 1;
            for fault in faults {
                assert!(!fault.problem.is_empty() && fault.to_string().contains(&fault.problem));
                if fault.file == *FILE {
                    assert!(
                        (1..=lines).contains(&fault.line) && fault.column >= 1,
                        "{fault}"
                    );
                }
            }
        }
        Err(GatewayError::Config(ConfigError::Read { .. })) => {}
        Err(other) => panic!("{other}"),
    }
});
