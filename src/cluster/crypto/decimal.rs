//! Large numbers as decimal digits, and back.

/// Returns the digits of a big-endian number.
pub(super) fn from_bytes(bytes: &[u8]) -> String {
    // The least digit comes first.
    let mut digits = vec![0u8];
    for byte in bytes {
        let mut carry = u32::from(*byte);
        for digit in &mut digits {
            let value = u32::from(*digit) * 256 + carry;
            *digit = (value % 10) as u8;
            carry = value / 10;
        }
        while carry > 0 {
            digits.push((carry % 10) as u8);
            carry /= 10;
        }
    }
    let digits = digits.iter().rev();
    digits.map(|digit| char::from(b'0' + digit)).collect()
}

/// Returns the big-endian number of so many bytes, or `None` if the text is not one that fits.
pub(super) fn to_bytes(text: &[u8], len: usize) -> Option<Vec<u8>> {
    // A byte has at least two digits. More are leading zeros or too much.
    if text.is_empty() || text.len() > 3 * len {
        return None;
    }
    let mut bytes = vec![0u8; len];
    for character in text {
        let digit = character.is_ascii_digit().then(|| character - b'0')?;
        let mut carry = u32::from(digit);
        for byte in bytes.iter_mut().rev() {
            let value = u32::from(*byte) * 10 + carry;
            *byte = (value & 0xff) as u8;
            carry = value >> 8;
        }
        if carry > 0 {
            return None;
        }
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::{from_bytes, to_bytes};

    #[test]
    fn numbers_are_the_digits_that_they_were() {
        assert_eq!(from_bytes(&[]), "0");
        assert_eq!(from_bytes(&[0, 0]), "0");
        assert_eq!(from_bytes(&[1, 0]), "256");
        assert_eq!(from_bytes(&[0xff; 8]), u64::MAX.to_string());
        assert_eq!(to_bytes(b"65535", 2), Some(vec![0xff, 0xff]));
        assert_eq!(to_bytes(b"007", 2), Some(vec![0, 7]));
        for wrong in [&b"65536"[..], b"", b"-1", b"1 2", b"0x1", b"0000007"] {
            assert_eq!(to_bytes(wrong, 2), None);
        }
        for _ in 0..1000 {
            let number = fastrand::u128(..);
            let bytes = number.to_be_bytes();
            assert_eq!(from_bytes(&bytes), number.to_string());
            assert_eq!(
                to_bytes(number.to_string().as_bytes(), 16),
                Some(bytes.to_vec())
            );
        }
    }
}
