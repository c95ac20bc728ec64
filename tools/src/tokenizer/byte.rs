//! A token a byte of UTF-8.

/// Id of the document end: the first after the bytes.
pub(super) const END: u32 = 256;

pub(super) fn encode_into(text: &str, ids: &mut Vec<u32>) {
    ids.extend(text.bytes().map(u32::from));
}

pub(super) fn decode(ids: &[i32]) -> String {
    let bytes: Vec<u8> = ids.iter().filter_map(|&id| u8::try_from(id).ok()).collect();
    String::from_utf8_lossy(&bytes).into_owned()
}
