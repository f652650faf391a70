"""The one truth about images: an SQL database reached through SQLAlchemy. Nothing else in the project speaks SQL."""
