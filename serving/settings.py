"""What the service is told when it starts: by the environment, by a TOML file, checked at once."""
import difflib, ipaddress, os
from pathlib import Path
from typing import Annotated

from pydantic import Field, ValidationError, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict, TomlConfigSettingsSource

from recsys_lib.core import InputError

Listed = Annotated[list[str], NoDecode]  # in the environment, between commas


class Settings(BaseSettings):
    "Each field is LOOKBOOK_<FIELD> in the environment, or a line of the TOML file that LOOKBOOK_CONFIG names; the environment wins."
    model_config = SettingsConfigDict(env_prefix='LOOKBOOK_', extra='forbid', populate_by_name=True)

    bundle: str = Field('', description='folder of a bundle version, or a link to one; a link that is moved is followed')
    config: str = Field('', description='a TOML file with these settings')
    state: str = Field('', description='folder that outlives the service: events, what was verified, counters; a temporary one if empty')
    images: str = Field('', description="folder of the articles' images, laid out as in the data (012/0123456789.jpg)")
    stock: str = Field('', description='file with the ids of the articles in stock, one a line')
    demo: bool = Field(False, description='true or false: customers and their histories can be looked at without a key')

    redis_url: str = Field('', alias='REDIS_URL', description='where events are kept instead of in the state folder: redis://host:port/0')
    events_mb: int = Field(512, ge=1, le=1_000_000, description='megabytes that the embedded store of events may take; beyond it /events answers 507')
    cache_mb: int = Field(32, ge=0, le=100_000, description="megabytes of answers that each worker keeps; 0 for none")

    api_keys: Listed = Field([], description='keys of at least 16 characters; if there are any, each request has to bring one')
    jwt_secret: str = Field('', description='a secret of at least 32 characters, with which tokens (HS256) that are as good as a key are signed')
    admin_key: str = Field('', description='a key of at least 16 characters, which opens /admin; closed without')
    rate_limit: str = Field('', description='requests of one key, or of one address without keys, as in 100/second; counted in Redis if there is one, else by each worker')
    networks: Listed = Field([], description='addresses that are answered, as in 10.0.0.0/8; all if empty')
    proxies: int = Field(0, ge=0, le=5, description='reverse proxies before the service, whose X-Forwarded-For and -Proto are believed')
    cors: Listed = Field([], description='origins whose pages may ask, as in https://shop.example')

    watch_seconds: float = Field(1., gt=0, le=3600, description='how often the link to the bundle is looked at')
    log_level: str = Field('INFO', pattern='^(DEBUG|INFO|WARNING|ERROR)$', description='one of DEBUG, INFO, WARNING, ERROR')
    max_content_length: int = Field(512 * 1024, ge=1024, le=2 ** 30, description="bytes of a request's body")
    max_image_bytes: int = Field(8 * 1024 * 1024, ge=1024, le=2 ** 30, description="bytes of a request's body that brings an image")
    max_pixels: int = Field(20_000_000, ge=64, le=10 ** 9, description='pixels of an image; decoded, one with transparency takes 16 bytes each for a moment')

    @field_validator('api_keys', 'networks', 'cors', mode='before')
    def listed(cls, given): return [part for part in (p.strip() for p in given.split(',')) if part] if isinstance(given, str) else given

    @field_validator('api_keys')
    def long_enough(cls, keys):
        if any(len(k) < 16 for k in keys): raise ValueError
        return keys

    @field_validator('admin_key')
    def hard_to_guess(cls, key):
        if 0 < len(key) < 16: raise ValueError
        return key

    @field_validator('jwt_secret')
    def harder_to_guess(cls, secret):
        if 0 < len(secret) < 32: raise ValueError
        return secret

    @field_validator('networks')
    def are_networks(cls, networks):
        for n in networks: ipaddress.ip_network(n)
        return networks

    @field_validator('rate_limit')
    def is_a_rate(cls, rate):
        if rate: import limits; limits.parse(rate)
        return rate

    @field_validator('redis_url')
    def is_an_address(cls, url):
        if url: import redis; redis.connection.parse_url(url)
        return url

    @classmethod
    def settings_customise_sources(cls, settings_cls, init_settings, env_settings, **_):
        file = init_settings().get('config') or env_settings().get('config')
        if not file: return init_settings, env_settings
        try: return init_settings, env_settings, TomlConfigSettingsSource(settings_cls, toml_file=readable(file))
        except ValueError as e:
            if isinstance(e, InputError): raise
            raise InputError(f'LOOKBOOK_CONFIG: {file}: expected TOML; {e}') from None


def readable(file):
    "A file that can be read. Raises `InputError`: a file that is named but not there would be passed over."
    try: open(file).close()
    except OSError as e: raise InputError(f'LOOKBOOK_CONFIG: {file}: {e.strerror}') from None
    return file


def read_settings(given: dict) -> Settings:
    "Settings, those that are given before all others. Raises `InputError` that names the setting and what was expected; also for a variable that is called nearly like one, for whoever mistypes a key wants it."
    names = [f'LOOKBOOK_{field.upper()}' for field in Settings.model_fields]
    for name in (n for n in os.environ if n.startswith('LOOKBOOK_') and n not in names):
        if meant := difflib.get_close_matches(name, names, 1, .9): raise InputError(f'{name}: there is no such setting; expected {meant[0]}')
    try: return Settings(**given)
    except ValidationError as e: found = e.errors(include_url=False, include_input=False)[0]
    name = str(found['loc'][0]); field = Settings.model_fields.get({'REDIS_URL': 'redis_url'}.get(name, name))
    shown = name if name == 'REDIS_URL' else f'LOOKBOOK_{name.upper()}'
    if field is None: raise InputError(f"{name}: there is no such setting; there are {', '.join(Settings.model_fields)}")
    raise InputError(f"{shown}: expected {field.description}")


def state_folder(path: str) -> Path:
    "The folder that outlives the service. Raises `InputError`."
    try:
        Path(path).mkdir(parents=True, exist_ok=True)
        (Path(path) / f'.writable-{os.getpid()}').touch(); (Path(path) / f'.writable-{os.getpid()}').unlink()
    except OSError as e: raise InputError(f'LOOKBOOK_STATE: {path}: expected a folder that can be written in ({e.strerror})') from None
    return Path(path)
