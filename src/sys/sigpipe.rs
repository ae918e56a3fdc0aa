//! SIGPIPE. `sendfile(2)` and `splice(2)` raise it on a broken connection, and have no flag to suppress it.

use std::io;

/// Blocks SIGPIPE in the calling thread, so that such a call returns EPIPE, whatever the process does about the signal.
#[cfg(any(target_os = "linux", target_os = "android"))]
#[allow(unsafe_code)]
pub(crate) fn block() -> io::Result<()> {
    use std::mem::MaybeUninit;
    use std::ptr;

    let mut signals = MaybeUninit::uninit();
    // SAFETY: `sigemptyset` initialises the set that the other two calls read. The pointer for the old mask may be null.
    let error = unsafe {
        libc::sigemptyset(signals.as_mut_ptr());
        libc::sigaddset(signals.as_mut_ptr(), libc::SIGPIPE);
        libc::pthread_sigmask(libc::SIG_BLOCK, signals.as_ptr(), ptr::null_mut())
    };
    match error {
        0 => Ok(()),
        error => Err(io::Error::from_raw_os_error(error)),
    }
}

/// Does nothing, because on this platform the engine writes with calls that raise no signal.
#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn block() -> io::Result<()> {
    Ok(())
}
