"""The branch of the error tree that banks and their store can cause.

StaydownError (hashing.errors)
└── IndexerError
    ├── UnknownBank          unknown_bank
    ├── UnknownContent       unknown_content
    ├── BankExists           bank_exists
    ├── InvalidBank          invalid_bank
    ├── InvalidManifest      invalid_manifest
    ├── NothingToEnroll      nothing_to_enroll
    ├── InvalidCompanion     invalid_companion
    ├── InvalidSource        invalid_source
    ├── NotApproved          not_approved
    ├── OwnProposal          own_proposal
    ├── NothingToApprove     nothing_to_approve
    ├── InvalidBackup        invalid_backup
    ├── BackupExists         backup_exists
    ├── StoreNotEmpty        store_not_empty
    ├── WithdrawalsUnknown   withdrawals_unknown
    ├── NotSigned            not_signed
    ├── KeyFileBroken        key_file_broken
    ├── KeyMissing           key_missing
    ├── IndexNotReady        index_not_ready
    ├── SearchUnavailable    search_unavailable
    ├── TooManyHits          too_many_hits
    └── StoreBroken          store_broken
"""

from hashing.errors import StaydownError


class IndexerError(StaydownError):
    """The store of known content cannot do this."""

    code = "indexer_error"


class UnknownBank(IndexerError):
    """There is no bank of this name."""

    code = "unknown_bank"


class UnknownContent(IndexerError):
    """There is no such content in this bank."""

    code = "unknown_content"


class BankExists(IndexerError):
    """There is a bank of this name already."""

    code = "bank_exists"


class InvalidBank(IndexerError):
    """A bank's name is 1 to 128 letters, digits, '_', '-' or '.', and its settings are known ones."""

    code = "invalid_bank"


class InvalidManifest(IndexerError):
    """The manifest cannot be read."""

    code = "invalid_manifest"


class NothingToEnroll(IndexerError):
    """There is no hash here that could be enrolled."""

    code = "nothing_to_enroll"


class InvalidCompanion(IndexerError):
    """A companion is lawful media other than the content itself, of a content that is no companion."""

    code = "invalid_companion"


class InvalidSource(IndexerError):
    """A source's name is 1 to 64 letters, digits, '_', '-' or '.'."""

    code = "invalid_source"


class NotApproved(IndexerError):
    """This bank asks for two persons: somebody else has to approve this first."""

    code = "not_approved"


class OwnProposal(IndexerError):
    """Who asked for this cannot approve it: that takes somebody else."""

    code = "own_proposal"


class NothingToApprove(IndexerError):
    """Nothing like this waits for approval in this bank."""

    code = "nothing_to_approve"


class InvalidBackup(IndexerError):
    """This file is no backup, or a damaged one."""

    code = "invalid_backup"


class BackupExists(IndexerError):
    """There is a file of this name already."""

    code = "backup_exists"


class StoreNotEmpty(IndexerError):
    """A backup is restored into a store with nothing in it; this one has something."""

    code = "store_not_empty"


class WithdrawalsUnknown(IndexerError):
    """What was withdrawn since is not known: the list is not there, or damaged. See --withdrawals."""

    code = "withdrawals_unknown"


class NotSigned(IndexerError):
    """This is not as it was signed."""

    code = "not_signed"


class KeyFileBroken(IndexerError):
    """A file of keys cannot be read or written, or holds no key."""

    code = "key_file_broken"


class KeyMissing(IndexerError):
    """Hashes are sealed with a key that is not in the key file."""

    code = "key_missing"


class IndexNotReady(IndexerError):
    """The index is still being loaded; ask again in a moment."""

    code = "index_not_ready"


class SearchUnavailable(IndexerError):
    """The search back-end does not answer, or not in time."""

    code = "search_unavailable"


class TooManyHits(IndexerError):
    """More hashes lie this near than the search back-end gives; what it left out is not known."""

    code = "too_many_hits"


class StoreBroken(IndexerError):
    """The store cannot be opened, read or written."""

    code = "store_broken"


NO_INPUTS_FAULT = StoreBroken, SearchUnavailable, IndexNotReady  # what is asked later may well be answered
