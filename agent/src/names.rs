//! Names as people and programs are told them: a GPU chooses them, and any byte but two may be in one.

/// A name in one line, from which its bytes can be told: `\n`, `\\`, and `\xff` for what is no UTF-8.
#[must_use]
pub fn shown(name: &[u8]) -> String {
    let mut text = String::new();
    for chunk in name.utf8_chunks() {
        for letter in chunk.valid().chars() {
            if letter.is_control() || letter == '\\' {
                text.extend(letter.escape_default());
            } else {
                text.push(letter);
            }
        }
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// Bytes as hexadecimal digits, two each.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_fits_one_line_and_no_two_look_alike() {
        assert_eq!(shown(b"line\nbreak"), "line\\nbreak");
        assert_eq!(shown(b"\xff\xfe"), "\\xff\\xfe");
        assert_eq!(shown(br"\xff"), r"\\xff");
        assert_eq!(shown("ünï 🚀".as_bytes()), "ünï 🚀");
    }

    #[test]
    fn a_byte_is_two_digits() {
        assert_eq!(hex(b"\x00\x0a\xfe"), "000afe");
    }
}
