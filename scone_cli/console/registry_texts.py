"""The help texts of the commands for a registry: see `help_texts`."""

PUBLISH_ABOUT = """Put the table, its vocabulary and its evaluation into a registry as a version, and make it current.

    A version is a folder that is never changed again: REGISTRY/NAME/versions/VERSION. Programs open REGISTRY/NAME, and read
    the version to which the link REGISTRY/NAME/current leads. It is moved in one step, when every byte has been checked.
    Files are hard links where the file system allows it, else copies. The same content is not published twice: its version
    is made current again.

    It is refused if there is no evaluation of exactly this table (as the table of the workspace, or with eval --table), and
    if a condition of that evaluation, --fail-if, held. The version that is current then stays.

    --keep N removes all but the N versions that were current last. The current one stays, and so do versions that a program
    has open. --recipient encrypts all files with age (extra `private`); `scone fetch` decrypts them.

    \b
    Reads    table/ vocab/ eval/
    Writes   REGISTRY/NAME

    \b
    Example:
      scone publish --to /srv/tables/law
      scone publish --to /srv/tables/law --keep 7
      scone publish --to /srv/tables/law --table scone-work/int8
      scone publish --to /mnt/shared/law --recipient age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p
    """

ROLLBACK_ABOUT = """Make VERSION current again; without VERSION the one that was current before.

    A second call without VERSION goes one further back. Nothing is copied or removed: only the link `current` moves, in one
    step, and programs that look for a new version go back with it.

    \b
    Example:
      scone rollback /srv/tables/law
      scone rollback /srv/tables/law 20260131T020000Z-0123456789ab
    """

FETCH_ABOUT = """Copy the current version, or --version, into DIR, which only its owner may read; decrypt it if it is encrypted.

    Every byte is compared with what was published. DIR appears whole or not at all; what was fetched to it before is
    replaced in one step. `Table.open(DIR)` and `scone generate --table DIR` read it. A file that was changed or cut, and a
    key that does not fit, are errors.

    \b
    Reads    REGISTRY/NAME
    Writes   DIR

    \b
    Example:
      scone fetch /mnt/shared/law law --identity key.txt
      scone fetch /srv/tables/law law --version 20260131T020000Z-0123456789ab
    """

AUDIT_ABOUT = """Say what a workspace or the versions in a registry still hold: which text can be read in them.

    With --text: how many kept documents, counted n-grams, f-grams, examples of an evaluation and tokens hold one of the given
    texts as a whole, however it was cut into tokens. White space is the same as a blank; upper and lower case differ. An
    n-gram cannot hold a text of more tokens than it has: `are parts` counts the n-grams that are a part of a given text, `rare
    parts` those of them that fewer than 10 documents hold.

    With --documents: which of the documents are in tokens/, and what comes only from them. FILE is that of count-ngrams
    --exclude-documents. When a document is no longer in tokens/, only its text can be looked for.

    Always: what looks like e-mail addresses, keys, card and phone numbers, as --redact finds them, and how many n-grams few
    documents hold. Weights and rows are not looked at: docs/privacy.md says what they remember.

    The exit code is 1 over a limit; with --text or --documents also if something cannot be looked at. Text is printed only
    with --show.

    \b
    Reads    tokens/ counts/ vocab/ model/ table/ eval/, or all versions in REGISTRY/NAME

    \b
    Example:
      scone audit
      scone audit scone-work --text names.txt
      scone audit /srv/tables/law --text names.txt --json
      scone audit scone-work --documents exclude.txt --max-personal 0 --show
    """
