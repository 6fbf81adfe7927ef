"""A policy small enough for unit tests."""

import pytest
from hypothesis import settings

# A machine that is busy must not fail a property.
settings.register_profile("exprl", deadline=None)
settings.load_profile("exprl")


@pytest.fixture(scope="session")
def tiny_qwen3(tmp_path_factory):
    """Folder of an untrained Qwen3 with a vocabulary of 16."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp("tiny")
    shape = Qwen3Config(
        vocab_size=16,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        tie_word_embeddings=True,
    )
    Qwen3ForCausalLM(shape).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="session")
def tokenizer():
    """One token per byte, and an end."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    one = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    one.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    one.decoder = decoders.ByteLevel()
    one.add_special_tokens([AddedToken("<eos>")])
    return one


@pytest.fixture(scope="session")
def certificate(make_certificate):
    """Paths of a self-signed certificate and of its key, in PEM form.

    It is that of 127.0.0.1 and of judge.example.
    """
    return make_certificate("127.0.0.1", "judge.example")


@pytest.fixture(scope="session")
def make_certificate(tmp_path_factory):
    """Makes a self-signed certificate for servers of these names; gives its path and its key's."""
    import datetime
    import ipaddress

    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec
    from cryptography.x509.oid import NameOID

    def alternative(name):
        try:
            return x509.IPAddress(ipaddress.ip_address(name))
        except ValueError:
            return x509.DNSName(name)

    def make(*names, signs_others=False, days=1):
        """`signs_others`: as `openssl req -x509` makes them; `days`: until it ends."""
        folder = tmp_path_factory.mktemp("tls")
        private = ec.generate_private_key(ec.SECP256R1())
        own = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "a judge")])
        now = datetime.datetime.now(datetime.UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(own)
            .issuer_name(own)
            .public_key(private.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(days=9))
            .not_valid_after(now + datetime.timedelta(days=days))
        )
        if names:
            listed = x509.SubjectAlternativeName([alternative(name) for name in names])
            made = made.add_extension(listed, critical=False)
        if signs_others:
            made = made.add_extension(x509.BasicConstraints(ca=True, path_length=None), True)
        signed = made.sign(private, hashes.SHA256())
        pem = serialization.Encoding.PEM
        (folder / "certificate.pem").write_bytes(signed.public_bytes(pem))
        pkcs8, plain = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        (folder / "key.pem").write_bytes(private.private_bytes(pem, pkcs8, plain))
        return folder / "certificate.pem", folder / "key.pem"

    return make
