//! The compile cache: serialized executables on disk.
//!
//! With the CPU plugin (PJRT 0.81), loading takes about a twentieth of the time of compiling: 0.04 s and 0.8 s for a
//! program of 400 ops.
//!
//! An entry's name is a SHA-256 over everything that the machine code depends on: the text of the module, the compile
//! options, the plugin, the device and the processor. Its file begins with a digest of the rest, because loading a
//! damaged executable would run damaged machine code. Beside the entries, a small file per module name keeps the parts
//! of the key that was used last, so that a miss can say what changed.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::{self, File};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::SystemTime;

use sha2::{Digest, Sha256};

use crate::client::Client;
use crate::error::{Error, PjrtError, Result};
use crate::executable::{Executable, is_serializable};
use crate::options::CompileOptions;
use crate::pjrt::calls::CPU_THREADS;
use crate::plugin::{PluginError, cache_dir, hexadecimal};
use crate::signature::Signature;

/// The first bytes of an entry. The number changes with the form of the file.
const MAGIC: &[u8; 8] = b"lmcexe1\n";

/// Bytes of a SHA-256 digest.
const DIGEST: usize = 32;

/// How large the folder grows before its oldest entries go, in bytes: an executable of a training step takes some
/// megabytes, so this holds hundreds of them.
pub const DEFAULT_MAX_BYTES: u64 = 2 << 30;

/// A folder of serialized executables, which several processes may use at once.
#[derive(Clone, Debug)]
pub struct CompileCache {
    dir: PathBuf,
    max_bytes: u64,
}

/// What the cache did for a compilation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CacheOutcome {
    /// The executable came from the cache.
    Hit,
    /// It was compiled, and is in the cache now.
    Miss(Miss),
    /// It was compiled, and is not in the cache, for this reason.
    NotStored(String),
}

/// Why an executable was not in the cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Miss {
    /// No module of this name was compiled before.
    New,
    /// These parts of the key are not those of the last compilation of a module of this name.
    Changed(Vec<&'static str>),
    /// The same was compiled before, but its entry is gone: evicted or removed.
    Gone,
    /// The entry was not usable, for this reason, and was replaced.
    Corrupt(String),
}

impl fmt::Display for CacheOutcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CacheOutcome::Hit => f.write_str("from the compile cache"),
            CacheOutcome::Miss(Miss::New) => f.write_str("compiled for the first time"),
            CacheOutcome::Miss(Miss::Changed(parts)) => write!(f, "compiled anew: {} changed", parts.join(" and ")),
            CacheOutcome::Miss(Miss::Gone) => f.write_str("compiled anew: no longer in the compile cache"),
            CacheOutcome::Miss(Miss::Corrupt(why)) => write!(f, "compiled anew: the cached entry was dropped ({why})"),
            CacheOutcome::NotStored(why) => write!(f, "compiled, not cached: {why}"),
        }
    }
}

impl CompileCache {
    /// The cache in lmc's cache folder.
    ///
    /// # Errors
    /// When no variable says where that folder is.
    pub fn default_location() -> std::result::Result<CompileCache, PluginError> {
        Ok(CompileCache::at(cache_dir()?.join("compiled"), DEFAULT_MAX_BYTES))
    }

    /// The cache in a folder, which is made when something is stored. The least recently used entries go when all
    /// entries together take more than `max_bytes`.
    pub fn at(dir: PathBuf, max_bytes: u64) -> CompileCache {
        CompileCache { dir, max_bytes }
    }

    /// The executable of a module: from the cache if it is there, and else compiled and stored. A cache that cannot be
    /// read or written costs time, and is no error: the outcome says so.
    ///
    /// # Errors
    /// As [`Client::compile`].
    pub fn compile(
        &self,
        client: &Client,
        stablehlo: &str,
        options: &CompileOptions,
    ) -> Result<(Executable, CacheOutcome)> {
        if !is_serializable(stablehlo) {
            let why = "programs with oneDNN calls cannot be serialized by this plugin".to_owned();
            return Ok((client.compile(stablehlo, options)?, CacheOutcome::NotStored(why)));
        }
        let key = Key::of(client, stablehlo, options);
        let path = self.dir.join(format!("{}.bin", key.digest()));
        let index = self.dir.join(format!("{}.last", file_stem(&Signature::of(stablehlo)?.module)));
        let miss = match read_entry(&path) {
            Ok(Some(bytes)) => match client.load(stablehlo, &bytes) {
                Ok(executable) => {
                    // The time of change is the time of last use. That it cannot be set costs an early eviction.
                    let _ = File::options().append(true).open(&path).and_then(|f| f.set_modified(SystemTime::now()));
                    return Ok((executable, CacheOutcome::Hit));
                }
                Err(e) => Miss::Corrupt(e.to_string()),
            },
            Ok(None) => key.miss(&index),
            Err(e) => Miss::Corrupt(e.to_string()),
        };
        let executable = client.compile(stablehlo, options)?;
        let outcome = match self.store(&executable, &path, &index, &key) {
            Ok(()) => CacheOutcome::Miss(miss),
            Err(StoreError::Serialize(e)) => CacheOutcome::NotStored(e.to_string()),
            Err(StoreError::File(e)) => CacheOutcome::NotStored(format!("cannot write {}: {e}", self.dir.display())),
        };
        Ok((executable, outcome))
    }

    /// Writes an entry and the key's parts, and evicts what is too much.
    fn store(
        &self,
        executable: &Executable,
        path: &Path,
        index: &Path,
        key: &Key,
    ) -> std::result::Result<(), StoreError> {
        let bytes = executable.serialize()?;
        fs::create_dir_all(&self.dir)?;
        let digest = Sha256::digest(&bytes);
        self.write_whole(path, &[MAGIC, digest.as_slice(), &bytes])?;
        self.write_whole(index, &[key.to_text().as_bytes()])?;
        self.evict()?;
        Ok(())
    }

    /// Writes a file so that other processes see it whole or not at all.
    fn write_whole(&self, path: &Path, parts: &[&[u8]]) -> io::Result<()> {
        let mut file = tempfile::NamedTempFile::new_in(&self.dir)?;
        for part in parts {
            file.write_all(part)?;
        }
        file.persist(path).map(|_| ()).map_err(|e| e.error)
    }

    /// Removes the least recently used entries until the rest takes at most `max_bytes`.
    fn evict(&self) -> io::Result<()> {
        let mut entries: Vec<(SystemTime, u64, PathBuf)> = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            // Another process may remove it meanwhile.
            let Ok(metadata) = entry.metadata() else { continue };
            // All but the small files with the keys: also what a killed process has left half-written.
            if entry.path().extension().is_none_or(|extension| extension != "last") {
                entries.push((metadata.modified()?, metadata.len(), entry.path()));
            }
        }
        let mut total: u64 = entries.iter().map(|(_, size, _)| size).sum();
        entries.sort();
        for (_, size, path) in entries {
            if total <= self.max_bytes {
                break;
            }
            fs::remove_file(&path).or_else(|e| if e.kind() == io::ErrorKind::NotFound { Ok(()) } else { Err(e) })?;
            total -= size;
        }
        Ok(())
    }
}

/// Why an entry was not written.
enum StoreError {
    Serialize(PjrtError),
    File(io::Error),
}

impl From<PjrtError> for StoreError {
    fn from(error: PjrtError) -> StoreError {
        StoreError::Serialize(error)
    }
}

impl From<io::Error> for StoreError {
    fn from(error: io::Error) -> StoreError {
        StoreError::File(error)
    }
}

/// What an executable depends on: a name and a digest for every part.
struct Key {
    parts: BTreeMap<&'static str, String>,
}

impl Key {
    fn of(client: &Client, stablehlo: &str, options: &CompileOptions) -> Key {
        let device = client.device();
        let sha = |bytes: &[u8]| hexadecimal(&Sha256::digest(bytes));
        let device = format!("{} {} {}", client.platform_name(), client.platform_version(), device.kind());
        let flags = std::env::var_os("XLA_FLAGS").unwrap_or_default();
        // XLA divides a program for the CPU among as many threads as its client has.
        let threads = std::env::var(CPU_THREADS)
            .unwrap_or_else(|_| std::thread::available_parallelism().map_or(0, usize::from).to_string());
        Key {
            parts: BTreeMap::from([
                ("the module", sha(stablehlo.as_bytes())),
                ("the compile options", sha(&options.encode())),
                ("XLA_FLAGS", sha(flags.as_encoded_bytes())),
                ("the plugin", sha(client.plugin().identity().as_bytes())),
                ("the device", sha(device.as_bytes())),
                ("the processor", sha(processor().as_bytes())),
                ("the number of threads", sha(threads.as_bytes())),
            ]),
        }
    }

    /// One digest over all parts.
    fn digest(&self) -> String {
        hexadecimal(&Sha256::digest(self.to_text().as_bytes()))
    }

    /// A line a part: name, tab, digest.
    fn to_text(&self) -> String {
        self.parts.iter().map(|(name, digest)| format!("{name}\t{digest}\n")).collect()
    }

    /// Compares with the parts in an index file.
    fn miss(&self, index: &Path) -> Miss {
        let Ok(text) = fs::read_to_string(index) else { return Miss::New };
        let last: BTreeMap<&str, &str> = text.lines().filter_map(|line| line.split_once('\t')).collect();
        let changed: Vec<&'static str> = self
            .parts
            .iter()
            .filter(|&(name, digest)| last.get(name) != Some(&digest.as_str()))
            .map(|(&name, _)| name)
            .collect();
        if changed.is_empty() { Miss::Gone } else { Miss::Changed(changed) }
    }
}

/// The processor's model and instruction sets, for which XLA's CPU compiler makes its code: a home may be shared by
/// machines. Empty where the system does not tell.
fn processor() -> &'static str {
    static PROCESSOR: OnceLock<String> = OnceLock::new();
    PROCESSOR.get_or_init(|| {
        let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
        // The words of x86-64 and of arm64. All cores are alike as far as this goes, so the first will do.
        let wanted = ["model name", "flags", "CPU implementer", "CPU part", "Features"];
        let first = text.split("\n\n").next().unwrap_or("");
        let lines = first.lines().filter(|line| wanted.iter().any(|name| line.starts_with(name)));
        lines.map(|line| format!("{line}\n")).collect()
    })
}

/// The serialized executable in a file; `None` if there is no such file.
fn read_entry(path: &Path) -> Result<Option<Vec<u8>>> {
    let error = |source| Error::File { what: "cannot read", path: path.to_owned(), source };
    let mut bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(e) => return Err(error(e)),
    };
    let head = MAGIC.len() + DIGEST;
    let whole = bytes.len() >= head
        && bytes.starts_with(MAGIC)
        && bytes[MAGIC.len()..head] == *Sha256::digest(&bytes[head..]).as_slice();
    if !whole {
        return Err(error(io::Error::new(io::ErrorKind::InvalidData, "its digest is wrong")));
    }
    bytes.drain(..head);
    Ok(Some(bytes))
}

/// A module's name as a file name.
fn file_stem(module: &str) -> String {
    module.chars().map(|c| if c.is_ascii_alphanumeric() || "_-".contains(c) { c } else { '_' }).collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use lmc_graph::{DType, Literal, TensorType};

    use super::*;
    use crate::testing::{client, module};
    use crate::{Argument, Buffer};

    /// A program that adds `n` to four numbers, in place if they are donated.
    fn adding(n: u8) -> String {
        let body = format!(
            "%0 = stablehlo.constant dense<{n}.0> : tensor<4xf32>\n    %1 = stablehlo.add %a, %0 : tensor<4xf32>\n    \
             return %1 : tensor<4xf32>"
        );
        module("%a: tensor<4xf32> {tf.aliasing_output = 0 : i32}", "tensor<4xf32>", &body)
    }

    fn new_cache(max_bytes: u64) -> (tempfile::TempDir, CompileCache) {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let cache = CompileCache::at(dir.path().join("compiled"), max_bytes);
        (dir, cache)
    }

    fn compile(cache: &CompileCache, text: &str, options: &CompileOptions) -> (Executable, CacheOutcome) {
        cache.compile(client(), text, options).expect("compiled")
    }

    #[track_caller]
    fn check(cache: &CompileCache, text: &str, options: &CompileOptions, expected: &CacheOutcome) {
        let (executable, outcome) = compile(cache, text, options);
        assert_eq!(&outcome, expected);
        let a = client().buffer(&Literal::new([4], &[0f32, 1., 2., 3.])).expect("a buffer");
        let address = a.device_address().expect("an address");
        let output = executable.execute(vec![Argument::Donate(a)]).expect("executed").remove(0);
        let first = output.to_literal().expect("read").elements::<f32>()[0];
        assert!(text.contains(&format!("dense<{first:.1}>")), "{first} from {text}");
        assert_eq!(output.device_address().expect("an address"), address, "the donated memory is not reused");
    }

    fn entries(cache: &CompileCache) -> Vec<PathBuf> {
        let paths = fs::read_dir(&cache.dir).expect("read").map(|entry| entry.expect("an entry").path());
        paths.filter(|path| path.extension().is_some_and(|extension| extension == "bin")).collect()
    }

    #[test]
    fn hits_and_misses() {
        let (_dir, cache) = new_cache(DEFAULT_MAX_BYTES);
        let none = CompileOptions::default();
        let wide = none.clone().with("xla_cpu_prefer_vector_width", 512);
        let changed = |part| CacheOutcome::Miss(Miss::Changed(vec![part]));
        check(&cache, &adding(1), &none, &CacheOutcome::Miss(Miss::New));
        check(&cache, &adding(1), &none, &CacheOutcome::Hit);
        check(&cache, &adding(2), &none, &changed("the module"));
        check(&cache, &adding(2), &wide, &changed("the compile options"));
        check(&cache, &adding(2), &wide, &CacheOutcome::Hit);
        check(&cache, &adding(1), &none, &CacheOutcome::Hit);
        entries(&cache).iter().for_each(|path| fs::remove_file(path).expect("removed"));
        check(&cache, &adding(2), &wide, &CacheOutcome::Miss(Miss::Gone));
        let outcome = changed("the module");
        assert_eq!(outcome.to_string(), "compiled anew: the module changed");
    }

    #[test]
    fn a_damaged_entry_is_replaced() {
        let (_dir, cache) = new_cache(DEFAULT_MAX_BYTES);
        let none = CompileOptions::default();
        type Damage = fn(Vec<u8>) -> Vec<u8>;
        let damages: [Damage; 4] = [
            |mut bytes| {
                let middle = bytes.len() / 2;
                bytes[middle] ^= 1;
                bytes
            },
            |bytes| bytes[..bytes.len() - 1].to_vec(),
            |_| Vec::new(),
            // Whole, but not an executable.
            |_| [&MAGIC[..], &Sha256::digest(b"nothing"), b"nothing"].concat(),
        ];
        compile(&cache, &adding(1), &none);
        for damage in damages {
            let path = &entries(&cache)[0];
            fs::write(path, damage(fs::read(path).expect("read"))).expect("written");
            let (_, outcome) = compile(&cache, &adding(1), &none);
            assert!(matches!(outcome, CacheOutcome::Miss(Miss::Corrupt(_))), "{outcome}");
            check(&cache, &adding(1), &none, &CacheOutcome::Hit);
        }
    }

    #[test]
    fn the_least_recently_used_go_first() {
        let (_dir, cache) = new_cache(DEFAULT_MAX_BYTES);
        let none = CompileOptions::default();
        compile(&cache, &adding(1), &none);
        let first = entries(&cache)[0].clone();
        let size = fs::metadata(&first).expect("metadata").len();
        compile(&cache, &adding(2), &none);
        let second = entries(&cache).into_iter().find(|path| *path != first).expect("a second entry");
        // The second was used before the first.
        let set = |path: &Path, ago| {
            let file = File::options().append(true).open(path).expect("opened");
            file.set_modified(SystemTime::now() - Duration::from_secs(ago)).expect("set");
        };
        set(&first, 100);
        set(&second, 200);
        // A use makes it the newest.
        check(&cache, &adding(2), &none, &CacheOutcome::Hit);
        let small = CompileCache::at(cache.dir.clone(), 2 * size + size / 2);
        compile(&small, &adding(3), &none);
        assert!(!first.exists() && second.exists());
        assert_eq!(entries(&cache).len(), 2);
    }

    #[test]
    fn what_cannot_be_stored_is_compiled_all_the_same() {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let file = dir.path().join("file");
        fs::write(&file, "").expect("written");
        let cache = CompileCache::at(file, DEFAULT_MAX_BYTES);
        let (_, outcome) = compile(&cache, &adding(1), &CompileOptions::default());
        let CacheOutcome::NotStored(why) = outcome else { panic!("{outcome}") };
        assert!(why.starts_with("cannot write "), "{why}");
    }

    /// Serializing this one would end the process.
    #[test]
    fn programs_with_onednn_calls_are_not_offered() {
        let (_dir, cache) = new_cache(DEFAULT_MAX_BYTES);
        let dims = r#"{\"tensor\":{\"dimensions\":[\"1\",\"2\"]}}"#;
        let body = format!(
            "%0 = stablehlo.custom_call @\"__onednn$matmul\"(%a, %a) {{backend_config = \"{{\\\"onednn_matmul_config\\\":\
             {{\\\"lhs\\\":{dims},\\\"rhs\\\":{dims},\\\"result\\\":{dims}}}}}\", api_version = 1 : i32}} : \
             (tensor<64x64xbf16>, tensor<64x64xbf16>) -> tensor<64x64xbf16>\n return %0 : tensor<64x64xbf16>"
        );
        let text = module("%a: tensor<64x64xbf16>", "tensor<64x64xbf16>", &body);
        let (_, outcome) = compile(&cache, &text, &CompileOptions::default());
        assert!(matches!(outcome, CacheOutcome::NotStored(_)), "{outcome}");
    }

    /// What a training step has in it goes through the cache, and computes the same from there.
    #[test]
    fn programs_of_many_kinds_are_loaded_as_they_were() {
        let (_dir, cache) = new_cache(DEFAULT_MAX_BYTES);
        let f = "tensor<64x64xf32>";
        let unary = format!("({f}) -> {f}");
        let programs = [
            format!("%0 = stablehlo.dot_general %a, %a, contracting_dims = [1] x [0] : ({f}, {f}) -> {f}"),
            format!(
                "%b = stablehlo.convert %a : ({f}) -> tensor<64x64xbf16>\n %0 = stablehlo.dot_general %b, %b, \
                 contracting_dims = [1] x [1] : (tensor<64x64xbf16>, tensor<64x64xbf16>) -> {f}"
            ),
            format!(
                "%b = stablehlo.convert %a : ({f}) -> tensor<64x64xbf16>\n %c = stablehlo.dot_general %b, %b, \
                 contracting_dims = [0] x [0] : (tensor<64x64xbf16>, tensor<64x64xbf16>) -> tensor<64x64xbf16>\n \
                 %0 = stablehlo.convert %c : (tensor<64x64xbf16>) -> {f}"
            ),
            format!(
                "%0 = \"stablehlo.sort\"(%a) <{{dimension = 1 : i64}}> ({{\n^bb0(%x: tensor<f32>, %y: tensor<f32>):\n \
                 %c = stablehlo.compare GT, %x, %y : (tensor<f32>, tensor<f32>) -> tensor<i1>\n \
                 stablehlo.return %c : tensor<i1>\n}}) : {unary}"
            ),
            format!(
                "%i = stablehlo.iota dim = 0 : tensor<64x1xi32>\n %0 = \"stablehlo.scatter\"(%a, %i, %a) <{{\
                 scatter_dimension_numbers = #stablehlo.scatter<update_window_dims = [1], inserted_window_dims = [0], \
                 scatter_dims_to_operand_dims = [0], index_vector_dim = 1>}}> ({{\n^bb0(%x: tensor<f32>, \
                 %y: tensor<f32>):\n %s = stablehlo.add %x, %y : tensor<f32>\n stablehlo.return %s : tensor<f32>\n}}) : \
                 ({f}, tensor<64x1xi32>, {f}) -> {f}"
            ),
            format!(
                "%k = stablehlo.constant dense<[1, 2]> : tensor<2xui64>\n %s, %r = stablehlo.rng_bit_generator %k, \
                 algorithm = THREE_FRY : (tensor<2xui64>) -> (tensor<2xui64>, tensor<64x64xui32>)\n \
                 %0 = stablehlo.convert %r : (tensor<64x64xui32>) -> {f}"
            ),
            format!(
                "%z = stablehlo.constant dense<0.0> : tensor<f32>\n %e = stablehlo.exponential %a : {f}\n \
                 %r = stablehlo.reduce(%e init: %z) applies stablehlo.add across dimensions = [1] : \
                 ({f}, tensor<f32>) -> tensor<64xf32>\n %b = stablehlo.broadcast_in_dim %r, dims = [0] : \
                 (tensor<64xf32>) -> {f}\n %0 = stablehlo.divide %e, %b : {f}"
            ),
            format!(
                "%i0 = stablehlo.constant dense<0> : tensor<i32>\n %n = stablehlo.constant dense<9> : tensor<i32>\n \
                 %one = stablehlo.constant dense<1> : tensor<i32>\n %w:2 = stablehlo.while(%i = %i0, %x = %a) : \
                 tensor<i32>, {f}\n cond {{\n %c = stablehlo.compare LT, %i, %n : (tensor<i32>, tensor<i32>) -> \
                 tensor<i1>\n stablehlo.return %c : tensor<i1>\n }} do {{\n %j = stablehlo.add %i, %one : \
                 tensor<i32>\n %y = stablehlo.tanh %x : {f}\n stablehlo.return %j, %y : tensor<i32>, {f}\n }}\n \
                 %0 = stablehlo.add %w#1, %a : {f}"
            ),
        ];
        let ty = TensorType::new(DType::F32, [64, 64]);
        let elements: Vec<f64> = (0..64 * 64).map(|i| f64::from(i * 37 % 101) / 50. - 1.).collect();
        let a = Buffer::from_literal(client().device(), &Literal::from_f64s(ty, &elements)).expect("a buffer");
        for body in programs {
            let text = module(&format!("%a: {f}"), f, &format!("{body}\n return %0 : {f}"));
            let run = |executable: Executable| {
                executable.execute(vec![(&a).into()]).expect("executed")[0].to_literal().expect("read")
            };
            let (compiled, _) = compile(&cache, &text, &CompileOptions::default());
            let (loaded, outcome) = compile(&cache, &text, &CompileOptions::default());
            assert_eq!(outcome, CacheOutcome::Hit, "{text}");
            assert_eq!((loaded.outputs(), loaded.arguments()), (compiled.outputs(), compiled.arguments()));
            assert_eq!(run(compiled), run(loaded), "{text}");
        }
    }
}
