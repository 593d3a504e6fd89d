//! models.toml: the built-in one makes sense, a user's own one adds and overrides, nonsense is refused.

use ostro::registry::{Catalogue, Source};

use super::{models, sha256};

#[test]
fn the_built_in_entries_are_sane() {
    let catalogue = Catalogue::load(None).unwrap();
    assert!(catalogue.get(catalogue.default_alias()).is_some());
    let mut wrong = Vec::new();
    for e in catalogue.entries() {
        let mut check = |ok: bool, what: &str| {
            if !ok {
                wrong.push(format!("{}: {what}", e.alias));
            }
        };
        check(e.size().is_some_and(|s| (10_000_000..200_000_000_000).contains(&s)), "size");
        check(e.approx == e.files.iter().any(|f| f.size.is_none()), "approx");
        check(!e.name.is_empty() && !e.licence.is_empty() && !e.quant.is_empty(), "name, licence or quant");
        check(e.context.is_some_and(|c| (512..=1 << 20).contains(&c)), "context");
        check(e.sampling.temp.is_none_or(|t| (0.0..=2.0).contains(&t)), "temp");
        check(e.sampling.top_p.is_none_or(|p| (0.0..=1.0).contains(&p)), "top_p");
        let n = e.files.len();
        for (i, file) in e.files.iter().enumerate() {
            let split = format!("-{:05}-of-{n:05}.gguf", i + 1);
            check(n == 1 || file.name.ends_with(&split), "a name of a split set");
        }
        for source in &e.sources {
            if let Source::Url { urls } = source {
                check(urls.iter().all(|u| u.starts_with("https://")), "https");
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // What can be run can be fetched, and what can be fetched can be run.
    for arch in ostro::model::architectures() {
        assert!(catalogue.entries().iter().any(|e| e.architecture == arch), "no entry of {arch}");
    }
    for e in catalogue.entries() {
        assert!(ostro::model::architectures().any(|known| known == e.architecture), "{}: {}", e.alias, e.architecture);
    }
    let names = ["smollm2", "gemma3-270m", "mixtral-8x22b", "mixtral-8x7b", "mistral-7b", "llama3.1-8b"];
    for alias in names.iter().chain(&["qwen2.5-7b", "command-r-plus", "deepseek-v2-lite"]) {
        assert!(catalogue.get(alias).is_some(), "{alias}");
    }
}

#[test]
fn mistyped_aliases_find_their_way() {
    let catalogue = Catalogue::load(None).unwrap();
    for (typed, first) in [
        ("smolm2", Some("smollm2")),
        ("SmolLM", Some("smollm2")),
        ("mixtral", Some("mixtral-8x22b")),
        ("llama3-8b", Some("llama3.1-8b")),
        ("qwen2.5", Some("qwen2.5-7b")),
        ("nothing like it", None),
        ("", None),
    ] {
        assert_eq!(catalogue.suggest(typed).first().copied(), first, "{typed}");
    }
    assert_eq!(catalogue.get("SMOLLM2").unwrap().alias, "smollm2");
}

fn good() -> String {
    models(&format!("size = 5\nsha256 = \"{}\"", sha256(b"x")), "[[model.source]]\nkind = \"hf\"\nrepo = \"a/b\"")
}

#[test]
fn the_users_file_adds_and_overrides() {
    let own = good().replace("\"toy\"", "\"mine\"").replace("Toy", "Mine");
    let both = Catalogue::parse(&good(), Some(("own.toml", &own))).unwrap();
    assert_eq!(both.default_alias(), "mine");
    assert_eq!(both.entries().len(), 2);

    let own = good().replace("Toy", "Other").replace("default = \"toy\"\n", "");
    let one = Catalogue::parse(&good(), Some(("own.toml", &own))).unwrap();
    assert_eq!((one.entries().len(), one.get("toy").unwrap().name.as_str()), (1, "Other"));
    assert_eq!(one.default_alias(), "toy");

    let error = Catalogue::load(Some("/no/such/models.toml".as_ref())).unwrap_err().to_string();
    assert!(error.starts_with("/no/such/models.toml: cannot be read"), "{error}");
}

#[test]
fn nonsense_is_refused() {
    let hash = sha256(b"x");
    let swap = |from: &str, to: &str| {
        let text = good();
        assert!(text.contains(from), "{from}");
        text.replace(from, to)
    };
    let hf = "kind = \"hf\"\nrepo = \"a/b\"";
    let rows = [
        (swap("default = \"toy\"", ""), "no default"),
        (swap("default = \"toy\"", "default = \"x\""), "names no model"),
        (swap("alias = \"toy\"", "alias = \"../toy\""), "alias"),
        (swap("alias = \"toy\"", "alias = \"\""), "alias"),
        (swap("alias = \"toy\"", "alias = \"Toy\""), "alias"),
        (swap("toy.gguf", "../toy.gguf"), "plain name"),
        (swap("toy.gguf", "/etc/toy.gguf"), "plain name"),
        (swap("toy.gguf", ".toy.gguf"), "plain name"),
        (swap("toy.gguf", "toy.bin"), "ends in .gguf"),
        (swap("size = 5", "size = 0"), "size 0"),
        (swap("size = 5", "size = -5"), "line"),
        (swap("size = 5", ""), "no size"),
        (swap(&hash, &hash[1..]), "64"),
        (swap(&hash, &hash.to_uppercase()), "lower-case"),
        (swap("name = \"Toy\"", ""), "name"),
        (swap("name = \"Toy\"", "name = \"Toy\"\ncolour = 1"), "colour"),
        (swap(hf, ""), "kind"),
        (swap(hf, "kind = \"ftp\""), "ftp"),
        (swap("repo = \"a/b\"", "repo = \"a/../b\""), "owner/name"),
        (swap("repo = \"a/b\"", "repo = \"a/b\"\nrevision = \"\""), "revision"),
        (swap("repo = \"a/b\"", "repo = \"a/b\"\npaths = [\"x\", \"y\"]"), "2 paths"),
        (swap("repo = \"a/b\"", "repo = \"a/b\"\npaths = [\"../x\"]"), "paths"),
        (swap(hf, "kind = \"pip\"\npackages = []"), "no packages"),
        (swap(hf, "kind = \"pip\"\npackages = [\"--index-url=x\"]"), "name==version"),
        (swap(hf, "kind = \"pip\"\npackages = [\"-r==1\"]"), "name==version"),
        (swap(hf, "kind = \"pip\"\npackages = [\"a b==1\"]"), "name==version"),
        (swap(hf, "kind = \"url\"\nurls = []"), "0 urls"),
        (swap(hf, "kind = \"url\"\nurls = [\"file:///x\"]"), "https://"),
        (swap(&format!("sha256 = \"{hash}\""), "").replace(hf, "kind = \"pip\"\npackages = [\"a==1\"]"), "sha256"),
        (swap(&format!("sha256 = \"{hash}\""), "") + "\n[[model.source]]\n" + hf, "several sources"),
        (good() + good().split_once('\n').unwrap().1, "twice"),
        ("x = ".to_owned(), "line 1"),
    ];
    let wrong: Vec<_> = rows
        .iter()
        .filter_map(|(text, word)| match Catalogue::parse(text, None) {
            Err(e) if e.to_string().contains(word) && !e.to_string().contains('\n') => None,
            other => Some(format!("{word}: {:?}", other.map(|_| "accepted").map_err(|e| e.to_string()))),
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
