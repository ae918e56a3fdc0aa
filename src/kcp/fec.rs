//! Forward error correction as kcp-go sends it: heads in front of the datagrams.

/// The length of the head of a datagram with data: number, kind and size.
const HEAD: usize = 8;

const DATA: [u8; 2] = [0xf1, 0];
const PARITY: [u8; 2] = [0xf2, 0];

/// Returns the datagram behind a head of forward error correction, and a datagram without such a head as it is. Returns nothing for
/// parity, and for a head with a wrong size.
///
/// kcp-go has such heads if it is told numbers of data and parity shards. No command of KCP is at their place, so both kinds can come
/// to one socket.
///
/// # Examples
///
/// ```
/// use epicycle::kcp::strip_fec;
///
/// assert_eq!(strip_fec(b"\x07\0\0\0\xf1\0\x05\0abc"), Some(&b"abc"[..]));
/// assert_eq!(strip_fec(b"\x08\0\0\0\xf2\0parity"), None);
/// assert_eq!(strip_fec(b"\x07\0\0\0\x51\0plain"), Some(&b"\x07\0\0\0\x51\0plain"[..]));
/// ```
pub fn strip_fec(datagram: &[u8]) -> Option<&[u8]> {
    let kind: [u8; 2] = datagram.get(4..6)?.try_into().ok()?;
    match kind {
        DATA => {
            let size = datagram.get(6..HEAD)?.try_into().ok()?;
            // The size counts itself.
            let len = usize::from(u16::from_le_bytes(size)).checked_sub(2)?;
            datagram.get(HEAD..HEAD + len)
        }
        PARITY => None,
        _ => Some(datagram),
    }
}
