//! Bookkeeping that proves itself: JSON objects whose first field is the blake3 of the rest.

use mindgap_base::address::Address;

/// How a sealed text begins. The digits of the checksum follow, then `",` and the JSON without its first brace. The checksum is that
/// of the JSON with the brace.
pub(super) const SEAL: &str = "{\"checksum\":\"";

/// Seals a JSON object.
pub(super) fn seal(json: &str) -> String {
    format!("{SEAL}{}\",{}", Address::of(json.as_bytes()), &json[1..])
}

/// The JSON in a sealed text, if it is as it was written; also one without a seal that begins as earlier builds wrote it. Else what is
/// wrong with it.
pub(super) fn unseal(bytes: &[u8], unsealed: &str) -> Result<String, &'static str> {
    let text = std::str::from_utf8(bytes).map_err(|_| "it is no text")?;
    match text.strip_prefix(SEAL).and_then(|rest| rest.split_once("\",")) {
        Some((checksum, rest)) => {
            let json = format!("{{{rest}");
            match Address::of(json.as_bytes()).as_str() == checksum {
                true => Ok(json),
                false => Err("its checksum does not fit: it was changed after it was written"),
            }
        }
        None if text.starts_with(unsealed) => Ok(text.to_string()),
        None => Err("it does not begin as it was written"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_flipped_bit_is_believed() {
        let sealed = seal(r#"{"event":"part","seconds":1.25}"#);
        assert_eq!(unseal(sealed.as_bytes(), "{\"event\":").unwrap(), r#"{"event":"part","seconds":1.25}"#);
        for bit in 0..sealed.len() * 8 {
            let mut bytes = sealed.clone().into_bytes();
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert!(unseal(&bytes, "{\"event\":").is_err(), "bit {bit}");
        }
        assert!((0..sealed.len()).all(|cut| unseal(&sealed.as_bytes()[..cut], "{\"event\":").is_err()));
        assert!(unseal(br#"{"event":"run"}"#, "{\"event\":").is_ok(), "as earlier builds wrote it");
    }
}
