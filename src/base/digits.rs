//! Numbers and bytes as digits, hexadecimal and decimal, for what is written with every request: the formatter costs
//! more than the request's other lines together.

/// Eight lower-case hexadecimal digits at once: each in a byte of its own, those beyond nine are moved on to where `a`
/// begins.
pub fn hex(number: u32) -> [u8; 8] {
    const EACH: u64 = u64::from_ne_bytes([1; 8]);
    let mut digits = u64::from(number);
    for (shift, mask) in [(16, 0x0000_FFFF_0000_FFFF), (8, 0x00FF_00FF_00FF_00FF), (4, 0x0F0F_0F0F_0F0F_0F0F)] {
        digits = (digits << shift | digits) & mask;
    }
    let beyond_nine = (digits + 6 * EACH) >> 4 & EACH;
    (digits + u64::from(b'0') * EACH + u64::from(b'a' - b'0' - 10) * beyond_nine).to_be_bytes()
}

/// Two lower-case hexadecimal digits for each byte: `DIGITS` is twice `BYTES`.
pub fn hex_of<const BYTES: usize, const DIGITS: usize>(bytes: [u8; BYTES]) -> [u8; DIGITS] {
    const { assert!(DIGITS == 2 * BYTES && BYTES.is_multiple_of(4)) };
    let mut digits = [0; DIGITS];
    for (eight, four) in digits.as_chunks_mut::<8>().0.iter_mut().zip(bytes.as_chunks::<4>().0) {
        *eight = hex(u32::from_be_bytes(*four));
    }
    digits
}

/// A number in decimal digits, without leading zeros.
pub struct Decimal {
    digits: [u8; Decimal::LEN_MAX],
    start: usize,
}

impl Decimal {
    const LEN_MAX: usize = 20;

    #[inline]
    pub fn of(number: u64) -> Decimal {
        let mut digits = [0; Decimal::LEN_MAX];
        let start = write_decimal(number, &mut digits);
        Decimal { digits, start }
    }

    #[inline]
    pub fn as_bytes(&self) -> &[u8] {
        &self.digits[self.start..]
    }
}

/// Writes the digits to the end of `digits`. Returns where they begin.
fn write_decimal(mut number: u64, digits: &mut [u8; Decimal::LEN_MAX]) -> usize {
    let mut start = digits.len();
    // Two at a time: each division waits for the one before it.
    while number >= 10 {
        let pair = (number % 100) as u8;
        number /= 100;
        start -= 2;
        (digits[start], digits[start + 1]) = (b'0' + pair / 10, b'0' + pair % 10);
    }
    if number > 0 || start == digits.len() {
        start -= 1;
        digits[start] = b'0' + number as u8;
    }
    start
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn digits_are_those_of_the_formatter(number: u64, shift in 0..64u32, bytes: [u8; 32]) {
            let text = |digits: &[u8]| String::from_utf8(digits.to_vec()).expect("digits");
            let number = number >> shift;
            prop_assert_eq!(text(Decimal::of(number).as_bytes()), number.to_string());
            prop_assert_eq!(text(&hex(number as u32)), format!("{:08x}", number as u32));
            let expected: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
            prop_assert_eq!(text(&hex_of::<32, 64>(bytes)), expected);
        }
    }

    #[test]
    fn the_largest_number_has_room() {
        for number in [0, 9, 10, u64::MAX] {
            assert_eq!(Decimal::of(number).as_bytes(), number.to_string().as_bytes());
        }
    }
}
